"""Keeps uv's cache within bounds, when it is the runner's own.

uv never forgets a wheel it has unpacked. As long as an environment links to it that costs nothing; once the last of
them is gone it is a copy for a rainy day, and the first thing to go when space is short. uv finds out and downloads
again.
"""

import fcntl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from studio_runner.environments.files import remove_tree
from studio_runner.environments.packages import record_size


@dataclass(frozen=True)
class Wheel:
    """An unpacked wheel that no environment links to."""

    directory: Path
    size: int
    modified: float


def trim(cache: Path, room: int) -> None:
    """Remove unused wheels, oldest first, until the rest takes at most `room` bytes; not while uv is at work."""
    unused = sorted(_unused(cache), key=lambda wheel: wheel.modified)
    surplus = sum(wheel.size for wheel in unused) - max(room, 0)
    if surplus <= 0:
        return
    with (cache / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # uv holds it, shared, as long as it runs; there will be another time
        for wheel in unused:
            if surplus <= 0:
                return
            remove_tree(wheel.directory)
            surplus -= wheel.size


def _unused(cache: Path) -> Iterator[Wheel]:
    for directory in cache.glob("archive-v*/*"):
        record = next(directory.glob("*.dist-info/RECORD"), None)
        if record is None:
            continue
        if record.with_name("METADATA").stat().st_nlink == 1:
            yield Wheel(directory, record_size(record), directory.stat().st_mtime)
