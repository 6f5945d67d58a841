"""Run the benchmarks, print the table, keep the figures as JSON and as the table in the documentation."""

import argparse
import importlib
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from bench.result import Result

MODULES = (
    *("cli", "dispatch", "throughput", "environments", "archives", "daemon", "rabbitmq", "backlog", "transfer"),
    *("gpus", "watchers", "neighbours", "placement", "containers", "sealed", "reports", "masking"),
)
HERE = Path(__file__).parent
TABLE = HERE.parent / "docs" / "reference" / "benchmarks.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODULES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work; the figures are rough")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/reference/benchmarks.md")
    options = parser.parse_args()
    results = []
    print(header())
    for result in measured(options.names or list(MODULES), 0.1 if options.quick else 1.0):
        print(row(result), flush=True)
        results.append(result)
    (HERE / "results").mkdir(exist_ok=True)
    document = {"machine": machine(), "results": [asdict(result) for result in results]}
    (HERE / "results" / "latest.json").write_text(json.dumps(document, indent=1) + "\n")
    if options.write:
        write_table(results)
    missed = [result.name for result in results if result.met is False]
    if missed:
        print(f"\ntargets missed: {', '.join(missed)}")


def measured(names: list[str], scale: float) -> Iterator[Result]:
    for name in names:
        module = importlib.import_module(f"bench.{name}")
        yield from module.run(scale)


def header() -> str:
    return f"{'figure':52} {'value':>12} {'bare':>12} {'ratio':>7}  target"


def row(result: Result) -> str:
    bare = f"{result.bare:10.2f} {result.unit:1.4}" if result.bare is not None else ""
    ratio = f"{result.ratio:.2f}" if result.ratio is not None else ""
    verdict = {True: "met", False: "MISSED", None: ""}[result.met]
    value = f"{result.value:8.2f} {result.unit:4}"
    return f"{result.name:52} {value}{bare:>12} {ratio:>7}  {result.target} {verdict}".rstrip()


def machine() -> str:
    return (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.release()}, "
        f"{time.strftime('%Y-%m-%d')}"
    )


def write_table(results: list[Result]) -> None:
    """The figures of this run; those of others, measured before, stay."""
    text = TABLE.read_text()
    start, end = "<!-- table -->\n", "<!-- end -->"
    before, rest = text.split(start, 1)
    old, after = rest.split(end, 1)
    rows = {_name(line): line for line in old.splitlines() if line.startswith("| ") and _name(line) != "figure"}
    rows |= {result.name: _markdown(result) for result in results}
    lines = ["| figure | value | bare | ratio | target | |", "|---|---:|---:|---:|---|---|", *rows.values()]
    TABLE.write_text(f"{before}{start}\nMeasured on {machine()}.\n\n" + "\n".join(lines) + f"\n\n{end}{after}")


def _name(line: str) -> str:
    return line.split("|")[1].strip()


def _markdown(result: Result) -> str:
    bare = f"{result.bare:.2f} {result.unit} ({result.bare_name})" if result.bare is not None else ""
    ratio = f"{result.ratio:.2f}" if result.ratio is not None else ""
    verdict = {True: "met", False: "**missed**", None: ""}[result.met]
    return f"| {result.name} | {result.value:.2f} {result.unit} | {bare} | {ratio} | {result.target} | {verdict} |"


if __name__ == "__main__":
    main()
