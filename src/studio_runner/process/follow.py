"""Following an output file that another process writes, as `tail -f` would, across gaps (`output.py`)."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from studio_runner.messages.masking import blanked, within
from studio_runner.process.hidden import Hidden, nothing_hidden
from studio_runner.process.output import LONGEST_MARKER, NO_GAP, Gap, find_gap
from studio_runner.process.regular import open_regular

_SHORTEST, _LONGEST = 0.02, 0.2
"""Pauses between two looks, in seconds. It polls: a network file system has nothing to subscribe to."""
_PIECE = 1 << 18


async def follow(
    path: Path, done: Callable[[], bool], start: int = 0, hidden: Hidden = nothing_hidden
) -> AsyncIterator[bytes]:
    """What is in the file from the byte `start` on, then what is appended, until `done()` and everything is read;
    what is `hidden` is overwritten.

    The file need not exist yet, and may be removed meanwhile; a link in its place is not followed. When its middle
    is left out, the marker stands for what was not read of it yet.
    """
    reader = _Reader(path, start, hidden)
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


class _Reader:
    """A place in the output, kept while the file is replaced."""

    def __init__(self, path: Path, start: int, hidden: Hidden) -> None:
        self._path = path
        self._position = start
        self._hidden = hidden
        self._file = -1
        self._gap = NO_GAP

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
        if data and (places := self._hidden()):  # asked after reading: they are written down before
            data = blanked(
                data, within(self._gap.places_in_file(places), self._position, self._position + len(data))
            )
        self._position += len(data)
        return data

    def _open(self) -> None:
        self._hidden()
        file = open_regular(self._path)
        if file is not None:
            self._hidden()  # while the file was there
            self._file, self._gap = file, gap_in(file)

    def _replaced(self) -> bool:
        if self._file < 0:
            return False
        try:
            return self._path.lstat().st_ino != os.fstat(self._file).st_ino
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _move_over(self) -> None:
        """Go on in the new file where the old one ended."""
        reached = self._gap.in_output(self._position)
        self.close()
        self._open()
        self._position = self._gap.in_file(reached)


def gap_in(file: int) -> Gap:
    """Piece by piece: the file may be larger than what this process should take of memory."""
    start = 0
    while piece := os.pread(file, _PIECE, start):
        if gap := find_gap(piece, start):
            return gap
        start += len(piece) - LONGEST_MARKER if len(piece) == _PIECE else len(piece)
    return NO_GAP
