"""Artifacts that are one file and no archive (`unpack` false), on their way out."""

import os
from collections.abc import Generator
from pathlib import Path

from studio_runner.errors import ArtifactInvalidError
from studio_runner.storage.base import CHUNK
from studio_runner.storage.faults import disk_fault

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def single_file(directory: Path, name: str) -> str | None:
    """The file of `directory` that is the artifact: `name`, else the only one there; None when there is none."""
    with os.scandir(directory) as listing:
        files = sorted(entry.name for entry in listing if entry.is_file(follow_symlinks=False))
    if name in files:
        return name
    if len(files) > 1:
        raise ArtifactInvalidError(
            f"is one file, and {len(files)} are there ({files[0]}, {files[1]}, ...), none of them called {name}",
            hint=f"write to {name}, or make the artifact one that is unpacked",
        )
    return files[0] if files else None


def read_file(path: Path) -> Generator[bytes, None, None]:
    """The content of `path` as long as it is now, in pieces; a file that grows does not keep us for ever."""
    try:
        descriptor = os.open(path, _READ)
        try:
            left = os.fstat(descriptor).st_size
            while left > 0 and (piece := os.read(descriptor, min(left, CHUNK))):
                left -= len(piece)
                yield piece
        finally:
            os.close(descriptor)
    except PermissionError as error:
        raise ArtifactInvalidError(f"cannot read {path.name}: {error.strerror}") from error
    except OSError as error:
        raise disk_fault(error, str(path)) from error
