"""Trivial experiments per second, beside bare spawning of the same script, as many at a time."""

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from bench.result import Result
from bench.rig import MARK, clean_interpreter, running
from studio_runner.testing import Installation, installation

SHARE = 0.6


def run(scale: float) -> Iterator[Result]:
    amount = max(40, int(400 * scale))
    for cores in (1, 2):
        with installation() as made:
            bare = _bare(made, amount, cores)
            ours = _ours(made, amount, cores)
        yield Result(
            name=f"trivial experiments per second, {cores} at a time",
            value=ours,
            unit="1/s",
            bare=bare,
            bare_name="bare spawns",
            ratio=ours / bare,
            target=f">= {SHARE:g} x bare",
            met=ours >= SHARE * bare,
            detail={"n": amount},
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
        last = max(_finished(made, key) for key, _ in messages)
        return amount / (last - started)


def _finished(made: Installation, key: str) -> float:
    made.wait(key)
    return made.stored(key, "_results").stat().st_mtime
