"""Where in an output secrets are, for those who show it: they do not know the secrets, and need not.

Beside the directories of attempts there is a file for each of them, `hidden/<name of the directory>`: lines of an
offset and a length, in bytes of the whole output, what is left out of its middle included. A place is written down
before the bytes that it is about. The file is there before the output is, and goes after it.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from studio_runner.messages.masking import Spans, merged
from studio_runner.process.regular import open_regular

FOLDER = "hidden"
MOST = 10_000
"""Places that are written down; secrets after that are not stored at all."""
MOST_TOLD = 500
"""Places that a record tells of; of more, neighbours are made one."""
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC

Hidden = Callable[[], Spans]
"""The places as they are known now."""


def nothing_hidden() -> Spans:
    return ()


def places_of(attempt: Path) -> Path:
    """The file for the attempt in this directory. Containers see the directory, and not what is beside it."""
    return attempt.parent.parent / FOLDER / attempt.name


class Notes:
    """Writes down where secrets are."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._file = os.open(path, _FLAGS, 0o600)
        self._places: list[tuple[int, int]] = []

    def close(self) -> None:
        """May be called twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def add(self, places: Spans, offset: int) -> None:
        """These, counted from `offset`. OSError when they cannot be written down."""
        if len(self._places) + len(places) > MOST:
            raise OSError("there are too many")
        found = [(start + offset, end + offset) for start, end in places]
        line = b"".join(b"%d %d\n" % (start, end - start) for start, end in found)
        if os.write(self._file, b"\n" + line) <= len(line):  # after what may be half a line
            raise OSError("the disk is full")
        self._places += found

    @property
    def places(self) -> Spans:
        return merged(self._places)


class Places:
    """Reads what is written down for an attempt, as long as somebody follows its output."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1
        self._read, self._rest = 0, b""
        self._places: list[tuple[int, int]] = []
        self._merged: Spans = ()

    def __call__(self) -> Spans:
        if self._file < 0:
            self._open()
        if self._file >= 0 and (data := self._news()):
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._places += [place for line in lines if (place := _place(line))]
            self._merged = merged(self._places)
        return self._merged

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> None:
        with suppress(FileNotFoundError):
            self._file = open_regular(self._path) or -1

    def _news(self) -> bytes:
        pieces = []
        while piece := os.pread(self._file, 1 << 16, self._read):
            self._read += len(piece)
            pieces.append(piece)
        return b"".join(pieces)


@contextmanager
def opened_places(attempt: Path) -> Iterator[Hidden]:
    """For those who show the output of the attempt in this directory, while it is there. To be entered before the
    output is opened: what is written down goes soon after it."""
    places = Places(places_of(attempt))
    places()
    try:
        yield places
    finally:
        places.close()


def _place(line: bytes) -> tuple[int, int] | None:
    start, _, length = line.partition(b" ")
    return (int(start), int(start) + int(length)) if start.isdigit() and length.isdigit() else None


def fewer(places: Spans, most: int = MOST_TOLD) -> Spans:
    """No more than so many: those with the least between them become one."""
    if len(places) <= most:
        return places
    between = sorted((after[0] - before[1] for before, after in pairwise(places)), reverse=True)
    least = between[most - 1]
    found: list[tuple[int, int]] = [places[0]]
    for start, end in places[1:]:
        if start - found[-1][1] > least:
            found.append((start, end))
        else:
            found[-1] = (found[-1][0], end)
    return found


@dataclass(frozen=True)
class Cover:
    """Where secrets are in the first `until` bytes of an output (None: nobody has said so far)."""

    until: int | None
    places: Spans

    def document(self) -> dict[str, Any]:
        """For JSON: offset and length of each place, of a bounded number."""
        return {"until": self.until, "ranges": [[start, end - start] for start, end in fewer(self.places)]}

    @classmethod
    def of(cls, document: object) -> "Cover":
        """What such a document says; what is none says nothing."""
        if not isinstance(document, Mapping):
            return cls(None, ())
        until, ranges = document.get("until"), document.get("ranges")
        pairs = ranges if isinstance(ranges, list) else []
        places = merged((pair[0], pair[0] + pair[1]) for pair in pairs if _is_range(pair))
        return cls(until if type(until) is int else None, places)


def _is_range(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(type(one) is int and one >= 0 for one in pair)
