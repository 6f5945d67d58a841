"""Finding lines in a byte stream: those that could be JSON, at the speed of the stream, or every one."""

import re
from collections.abc import Callable
from typing import Protocol

_MAX_LINE = 1 << 20
"""No more of a line than this is kept."""
_OPENING = re.compile(rb"[ \t]*[{\[]")
_NEXT_OPENING = re.compile(rb"\n(?=[ \t]*[{\[])")
_BLANK = re.compile(rb"[ \t]*\Z")


class Scanner(Protocol):
    """Hands lines of a stream that comes in pieces to somebody, who must not block."""

    def feed(self, data: bytes) -> None: ...
    def finish(self) -> None:
        """The stream has ended; a last line needs no line end."""
        ...


class EveryLine:
    """Hands every line to `on_line`, without its line end; of one longer than 1 MiB the beginning, which is enough
    to see that it is too long."""

    def __init__(self, on_line: Callable[[bytes], object]) -> None:
        self._on_line = on_line
        self._begun = bytearray()

    def feed(self, data: bytes) -> None:
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._keep(end)
            self._hand_over()
        self._keep(rest)

    def finish(self) -> None:
        if self._begun:
            self._hand_over()

    def _keep(self, piece: bytes) -> None:
        self._begun += piece[: _MAX_LINE + 1 - len(self._begun)]

    def _hand_over(self) -> None:
        self._on_line(bytes(self._begun))
        self._begun.clear()


class LineScanner:
    """Hands every complete line that begins with `{` or `[`, blanks aside, to `on_line`, without its line end.

    What comes in pieces is put together again, up to 1 MiB a line; a longer one is no metadata and passed over. All
    other bytes are looked at by C code only.
    """

    def __init__(self, on_line: Callable[[bytes], object]) -> None:
        self._on_line = on_line
        self._begun: list[bytes] = []
        """Pieces of a line that is not complete and may be one of ours."""
        self._size = 0
        self._passing = False
        """In the middle of a line that is not ours."""

    def feed(self, data: bytes) -> None:
        end = data.find(b"\n") if self._begun or self._passing else 0
        if self._begun:
            if end < 0:
                self._keep(data)
                return
            data = self._joined() + data
        elif self._passing:
            if end < 0:
                return
            self._passing = False
            data = data[end + 1 :]
        self._scan(data)

    def finish(self) -> None:
        line = self._joined()
        if _OPENING.match(line):
            self._hand_over(line)

    def _scan(self, data: bytes) -> None:
        """`data` begins where a line begins."""
        position = 0
        while (start := _start_of_ours(data, position)) >= 0:
            end = data.find(b"\n", start)
            if end < 0:
                self._keep(data[start:])
                return
            self._hand_over(data[start:end])
            position = end + 1
        rest = data.rfind(b"\n", position) + 1 or position
        if _BLANK.match(data, rest):
            self._keep(data[rest:])
        else:
            self._passing = True

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > _MAX_LINE:
            self._joined()
            self._passing = True
        elif piece:
            self._begun.append(piece)

    def _joined(self) -> bytes:
        line = b"".join(self._begun)
        self._begun, self._size = [], 0
        return line

    def _hand_over(self, line: bytes) -> None:
        if len(line) <= _MAX_LINE:
            self._on_line(line)


def _start_of_ours(data: bytes, position: int) -> int:
    """Where the next line of ours begins, from a line's beginning at `position`; -1 for nowhere."""
    if _OPENING.match(data, position):
        return position
    brackets = [found for found in (data.find(b"{", position), data.find(b"[", position)) if found >= 0]
    if not brackets:
        return -1
    line_before = data.rfind(b"\n", position, min(brackets))
    found = _NEXT_OPENING.search(data, max(line_before, position))
    return found.end() if found else -1
