"""What reports to senders cost: sealing one, and the output of a script that is reported of."""

import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from bench.result import Result
from bench.rig import running, spread
from studio_runner.messages.keys import SESSION_KEY, SealingKey, new_opening_key, public_text
from studio_runner.messages.report import Progress, write_report
from studio_runner.messages.sealing import seal
from studio_runner.reports.base import Subject
from studio_runner.reports.sequence import report_on
from studio_runner.testing import QUEUE, Installation, installation

ROUNDS = 5
SCRIPT = """
import sys, time
line = {line!r} + "\\n"
pieces, started = line * 100, time.monotonic()
for _ in range({count} // 100):
    sys.stdout.write(pieces)
    sys.stdout.flush()
print(time.monotonic() - started)
"""
KINDS = {
    "text": ("step 12: all is well, and there is nothing to tell of it", 6_000_000, 1.1),
    "JSON": ('{"step": 12, "loss": 0.25, "accuracy": 0.5, "rate": 0.001}', 60_000, 1.5),
}
"""A line, how often it is printed, and how much longer that may take with reports."""


def run(scale: float) -> Iterator[Result]:
    key = new_opening_key().public
    yield _sealing(key, max(100, int(3000 * scale)))
    for kind, (line, count, target) in KINDS.items():
        yield _output(kind, SCRIPT.format(line=line, count=int(count * scale)), target, key)


def _sealing(key: SealingKey, count: int) -> Result:
    subject = Subject("1530054412_70d7eaf4", {}, QUEUE, 1, "trainer-7", None, "trainer-7-1-70d7eaf4")
    bare, ours = [], []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(count):
            key.wrap(bytes(SESSION_KEY))
        bare.append((time.process_time() - started) / count * 1e6)
        started = time.process_time()
        for number in range(count):
            report = report_on(subject, time.time(), Progress(json=json.dumps({"step": number, "loss": 0.25})))
            seal(write_report(report), key)
        ours.append((time.process_time() - started) / count * 1e6)
    value, least = statistics.median(ours), statistics.median(bare)
    return Result(
        name="a report, written and sealed",
        value=value,
        unit="us",
        bare=least,
        bare_name="RSA alone",
        ratio=value / least,
        target="<= 2 x RSA",
        met=value <= 2 * least,
        detail=spread(ours),
    )


def _output(kind: str, script: str, target: float, key: SealingKey) -> Result:
    """Seconds that a script takes to print, as it sees it: with reports of its lines and without, in turns."""
    with installation() as made:
        keys = made.home / "keys"
        keys.mkdir(mode=0o700)
        (keys / QUEUE).write_bytes(public_text(key))
        (made.queue_root / f"{QUEUE}_response").mkdir()
        found: dict[Path | None, list[float]] = {None: [], keys: []}
        for _ in range(ROUNDS):
            for way, series in found.items():
                series.append(_printed(made, script, way))
    bare, ours = (statistics.median(series) for series in found.values())
    return Result(
        name=f"printing lines of {kind} to a runner that reports",
        value=ours,
        unit="s",
        bare=bare,
        bare_name="to one that does not",
        ratio=ours / bare,
        target=f"<= {target:g} x without",
        met=ours <= target * bare,
        detail=spread(found[keys]),
    )


def _printed(made: Installation, script: str, keys: Path | None) -> float:
    options = ("--response-signatures-dir", str(keys)) if keys else ()
    with running(made, "--output-limit", "10mb", *options):
        experiment = made.submit({"main.py": script})
        made.wait(experiment)
        return float(made.output(experiment).splitlines()[-1])
