"""Following an output file that another process writes, as `tail -f` would, across gaps (`output.py`)."""

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from studio_runner.process.output import LONGEST_MARKER, Gap, find_gap

_SHORTEST, _LONGEST = 0.02, 0.2
"""Pauses between two looks, in seconds. It polls: a network file system has nothing to subscribe to."""
_PIECE = 1 << 18


async def follow(path: Path, done: Callable[[], bool], start: int = 0) -> AsyncIterator[bytes]:
    """What is in the file from the byte `start` on, then what is appended, until `done()` and everything is read.

    Only of a regular file, see `open_regular`. It need not exist yet, and may be removed meanwhile. When its middle
    is left out, the marker stands for what was not read of it yet.
    """
    reader = _Reader(path, start)
    pause = _SHORTEST
    try:
        while True:
            last = done()  # asked first: what was written before it became true is read below
            while data := reader.read():
                pause = _SHORTEST
                yield data
            if last:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST)
    finally:
        reader.close()


def open_regular(path: Path) -> int:
    """A descriptor for reading a regular file; OSError for anything else.

    Neither the file nor its directory may be a link: an experiment could make one that leads to any file that the
    runner may read. A pipe that nobody writes to is not waited for.
    """
    place = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path.name, flags, dir_fd=place)
    finally:
        os.close(place)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


class _Reader:
    """A place in the output, kept while the file is replaced."""

    def __init__(self, path: Path, start: int) -> None:
        self._path = path
        self._position = start
        self._file = -1
        self._gap: Gap | None = None

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def read(self) -> bytes:
        """The next piece; empty when there is none at present."""
        if self._file < 0:
            self._open()
        data = self._piece()
        if not data and self._replaced():
            data = self._piece()  # written between the two lines above; after that the old file never grows
            if not data:
                self._move_over()
                data = self._piece()
        return data

    def _piece(self) -> bytes:
        if self._file < 0:
            return b""
        data = os.pread(self._file, _PIECE, self._position)
        self._position += len(data)
        return data

    def _open(self) -> None:
        try:
            self._file = open_regular(self._path)
        except OSError:  # not there, or nothing of the runner's
            return
        self._gap = _gap_in(self._file)

    def _replaced(self) -> bool:
        if self._file < 0:
            return False
        try:
            return self._path.lstat().st_ino != os.fstat(self._file).st_ino
        except OSError:
            return False

    def _move_over(self) -> None:
        """Go on in the new file where the old one ended."""
        reached = _in_output(self._position, self._gap)
        self.close()
        self._open()
        self._position = _in_file(reached, self._gap)


def _gap_in(file: int) -> Gap | None:
    """Piece by piece: the file may be larger than what this process should take of memory."""
    start = 0
    while piece := os.pread(file, _PIECE, start):
        if gap := find_gap(piece, start):
            return gap
        start += len(piece) - LONGEST_MARKER if len(piece) == _PIECE else len(piece)
    return None


def _in_output(position: int, gap: Gap | None) -> int:
    """How many bytes of output lie before `position` in the file."""
    if gap is None or position <= gap.offset:
        return position
    return max(position - gap.length, gap.offset) + gap.omitted


def _in_file(reached: int, gap: Gap | None) -> int:
    """The reverse; the marker's place for what is left out."""
    if gap is None or reached <= gap.offset:
        return reached
    return gap.offset if reached < gap.offset + gap.omitted else reached - gap.omitted + gap.length
