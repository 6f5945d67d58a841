"""Keeps uv's cache within bounds, when it is the runner's own.

uv never forgets a wheel that it has unpacked. As long as an environment links to it that costs nothing; once the
last of them is gone it is a copy for a rainy day, and the first thing to go when space is short.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from studio_runner.environments.packages import record_size
from studio_runner.environments.uv import uv_binary
from studio_runner.process.base import Command


@dataclass(frozen=True)
class Wheel:
    """An unpacked wheel that no environment links to."""

    name: str
    size: int
    modified: float


def surplus(cache: Path, room: int) -> tuple[str, ...]:
    """Packages to forget, oldest first, so that unused wheels take at most `room` bytes."""
    unused = sorted(_unused(cache), key=lambda wheel: wheel.modified)
    excess = sum(wheel.size for wheel in unused) - room
    names: dict[str, None] = {}
    for wheel in unused:
        if excess <= 0:
            break
        names[wheel.name] = None
        excess -= wheel.size
    return tuple(names)


def forget(cache: Path, names: tuple[str, ...]) -> Command:
    """Has uv remove what it keeps of these packages; environments keep their links. uv waits until it is alone."""
    argv = (str(uv_binary()), "cache", "clean", "--quiet", *names)
    return Command(argv, {"UV_CACHE_DIR": str(cache)}, cache.parent)


def _unused(cache: Path) -> Iterator[Wheel]:
    for directory in cache.glob("archive-v*/*"):
        record = next(directory.glob("*.dist-info/RECORD"), None)
        if record is not None and record.with_name("METADATA").stat().st_nlink == 1:
            yield Wheel(record.parent.name.partition("-")[0], record_size(record), directory.stat().st_mtime)
