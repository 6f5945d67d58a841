"""Artifacts that are one file and no archive (`unpack` false), on their way out."""

import os
from collections.abc import Generator
from pathlib import Path

from studio_runner.errors import ArtifactInvalidError
from studio_runner.storage.base import CHUNK
from studio_runner.storage.faults import disk_fault
from studio_runner.storage.scan import open_directory, unreadable

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def single_file(directory: Path, name: str) -> str | None:
    """The file of `directory` that is the artifact: `name`, else the only one there; None when there is none."""
    parent = open_directory(directory)
    if parent is None:
        return None
    try:
        with os.scandir(parent) as listing:
            files = sorted(entry.name for entry in listing if entry.is_file(follow_symlinks=False))
    finally:
        os.close(parent)
    if name in files:
        return name
    if len(files) > 1:
        raise ArtifactInvalidError(
            f"is one file, and {len(files)} are there ({files[0]}, {files[1]}, ...), none of them called {name}",
            hint=f"write to {name}, or make the artifact one that is unpacked",
        )
    return files[0] if files else None


def read_file(directory: Path, name: str) -> Generator[bytes, None, None]:
    """The content of `name`, as long as it is now, in pieces: a file that grows does not keep us for ever."""
    try:
        descriptor = _open(directory, name)
        try:
            left = os.fstat(descriptor).st_size
            while left > 0 and (piece := os.read(descriptor, min(left, CHUNK))):
                left -= len(piece)
                yield piece
        finally:
            os.close(descriptor)
    except PermissionError as error:
        raise unreadable(os.fsencode(name), error) from error
    except OSError as error:
        raise disk_fault(error, str(directory / name)) from error


def _open(directory: Path, name: str) -> int:
    """Through the directory's descriptor: a script may have put a link in its place meanwhile."""
    parent = open_directory(directory)
    if parent is None:
        raise FileNotFoundError(2, "the directory is gone", str(directory))
    try:
        return os.open(name, _READ, dir_fd=parent)
    finally:
        os.close(parent)
