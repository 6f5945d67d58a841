"""How long the command line takes to say anything."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from bench.result import Result
from bench.rig import spread
from studio_runner.testing import command_path

TARGET = 0.25


def run(scale: float) -> Iterator[Result]:
    runs = max(5, int(20 * scale))
    ours = [_seconds([command_path(), "--version"]) for _ in range(runs)]
    bare = [_seconds([sys.executable, "-c", "pass"]) for _ in range(runs)]
    value = statistics.median(ours)
    yield Result(
        "studio-runner --version",
        value,
        "s",
        bare=statistics.median(bare),
        bare_name="python -c pass",
        ratio=value / statistics.median(bare),
        target=f"< {TARGET:g} s",
        met=value < TARGET,
        detail=spread(ours),
    )


def _seconds(command: list[str]) -> float:
    started = time.monotonic()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - started
