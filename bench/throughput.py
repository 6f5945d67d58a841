"""Trivial experiments per second, beside bare spawning of the same script, as many at a time."""

import statistics
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from bench.result import Result
from bench.rig import MARK, clean_interpreter, running, spread
from studio_runner.testing import Installation, installation

SHARE = 0.6


def run(scale: float) -> Iterator[Result]:
    amount, rounds = max(40, int(250 * scale)), max(1, round(5 * scale))
    for cores in (1, 2):
        bare, ours = [], []
        for _ in range(rounds):  # in turns, so that the machine's moods meet both
            with installation() as made:
                bare.append(_bare(made, amount, cores))
                ours.append(_ours(made, amount, cores))
        ratio = statistics.median(ours) / statistics.median(bare)
        yield Result(
            name=f"trivial experiments per second, {cores} at a time",
            value=statistics.median(ours),
            unit="1/s",
            bare=statistics.median(bare),
            bare_name="bare spawns",
            ratio=ratio,
            target=f">= {SHARE:g} x bare",
            met=ratio >= SHARE,
            detail={**spread(ours), "bare_min": min(bare), "bare_max": max(bare)},
        )


def _bare(made: Installation, amount: int, cores: int) -> float:
    python = clean_interpreter(made.home / "bare")
    script = made.home / "bare.py"
    script.write_text(MARK)

    def spawn(_: int) -> None:
        subprocess.run([python, str(script)], stdout=subprocess.DEVNULL, check=True, env={})

    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(spawn, range(cores)))
        started = time.monotonic()
        list(pool.map(spawn, range(amount)))
        return amount / (time.monotonic() - started)


def _ours(made: Installation, amount: int, cores: int) -> float:
    """From the first message on the queue to the last results, all messages queued at once."""
    workspace = made.workspace({"main.py": MARK})
    messages = [made.request(workspace) for _ in range(amount)]
    with running(made, "--max-cores", str(cores)):
        started = time.time()
        for _, body in messages:
            made.publish(body)
        return amount / (_last_results(made, [key for key, _ in messages]) - started)


def _last_results(made: Installation, keys: list[str]) -> float:
    """When the last results were stored. Looks rarely: whoever looks takes the processor from what is measured."""
    missing = {made.stored(key, "_results") for key in keys}
    finished = 0.0
    while missing:
        time.sleep(0.05)
        there = {path for path in missing if path.exists()}
        missing -= there
        finished = max([finished, *(path.stat().st_mtime for path in there)])
    return finished
