"""What the benchmarks share: an installation with a warm daemon, a bare interpreter, figures of a series."""

import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from studio_runner.testing import Installation

MARK = "import time; print(repr(time.time()))\n"
"""A script whose first line says when it ran."""


@contextmanager
def running(place: Installation, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon that has run one experiment already: its environment is warm."""
    with place.daemon("--log-level", "warning", *options) as daemon:
        key, body = place.request(place.workspace({"main.py": MARK}))
        place.publish(body)
        place.wait(key)
        yield daemon


def clean_interpreter(directory: Path) -> str:
    """The interpreter of a virtual environment without anything in it."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True, stdout=subprocess.DEVNULL
    )
    return str(directory / "bin" / "python")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median, maximum and number."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values), "n": len(values)}
