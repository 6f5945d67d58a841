"""Turning a fuzzer's bytes into decisions, the same ones every time, with or without a fuzzer."""

from collections.abc import Sequence
from typing import TypeVar

_T = TypeVar("_T")


class Picks:
    """Reads decisions off `data`; when it is used up everything is the first choice, zero, or empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether there is anything left to decide by."""
        return self._at < len(self._data)

    def below(self, bound: int) -> int:
        """0 to `bound - 1`."""
        size = (max(bound - 1, 1).bit_length() + 7) // 8
        return int.from_bytes(self.take(size), "little") % bound

    def one(self, choices: Sequence[_T]) -> _T:
        return choices[self.below(len(choices))]

    def flag(self) -> bool:
        return bool(self.below(2))

    def take(self, count: int) -> bytes:
        """The next bytes, `count` at most."""
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def some(self, most: int) -> bytes:
        """Up to `most` bytes; how many is a decision of its own."""
        return self.take(self.below(most + 1))

    def text(self, most: int) -> str:
        """Up to `most` bytes as text, half surrogate pairs included where they are no UTF-8."""
        return self.some(most).decode(errors="surrogateescape")

    def rest(self) -> bytes:
        return self.take(len(self._data))
