"""What is in an output file now, as people may see it: secrets overwritten, those of others and one's own."""

import os
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import BinaryIO, Self

from studio_runner.messages.masking import Masker, blanked, within
from studio_runner.process.follow import gap_in
from studio_runner.process.hidden import Hidden, nothing_hidden
from studio_runner.process.output import Gap

Write = Callable[[bytes], None]

_PIECE = 1 << 18
_BEFORE = 4096
"""Bytes that are looked at before those that are shown: a secret may begin there."""


def shown(file: BinaryIO, start: int, end: int, masker: Masker, hidden: Hidden = nothing_hidden) -> Iterator[bytes]:
    """The bytes from `start` to `end`, as many as there are."""
    skip = min(start, _BEFORE)
    stream = masker.stream()
    for piece in _stored(file.fileno(), start - skip, end, hidden):
        passed = stream.feed(piece)
        if len(passed) > skip:
            yield passed[skip:]
        skip = max(0, skip - len(passed))
    if len(rest := stream.finish()) > skip:
        yield rest[skip:]


def _stored(file: int, position: int, end: int, hidden: Hidden) -> Iterator[bytes]:
    hidden()
    gap: Gap | None = None
    while piece := os.pread(file, min(_PIECE, max(0, end - position)), position):
        if places := hidden():  # asked after reading: they are written down before
            gap = gap or gap_in(file)
            piece = blanked(piece, within(gap.places_in_file(places), position, position + len(piece)))
        yield piece
        position += len(piece)


def length_shown(file: BinaryIO, until: int | None) -> int:
    """How much of the file may be shown when only so many bytes of output were looked at."""
    size = os.fstat(file.fileno()).st_size
    return size if until is None else min(size, gap_in(file.fileno()).in_file(until))


class Veiled:
    """Writes what comes in pieces, without the secrets that one knows; what may begin one waits for the rest."""

    def __init__(self, write: Write, masker: Masker) -> None:
        self._write, self._stream = write, masker.stream()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if rest := self._stream.finish():
            self._write(rest)

    def __call__(self, piece: bytes) -> None:
        if passed := self._stream.feed(piece):
            self._write(passed)
