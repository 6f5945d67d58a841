"""Trying again what may yet succeed."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from studio_runner.errors import StorageUnavailableError

T = TypeVar("T")

_FIRST = 0.1
_LONGEST = 10.0


class PassingError(Exception):
    """Something went wrong that may go right the next time; `after` is how many seconds the server asked for."""

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


class Patience:
    """How long one operation is tried again: until nothing went right for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began = time.monotonic()
        self._tries = 0

    def renew(self) -> None:
        """Something went right."""
        if self._tries:
            self._tries = 0
        self._began = time.monotonic()

    async def wait(self, trouble: PassingError) -> None:
        """Until the next try; StorageUnavailableError when there is to be none."""
        self._tries += 1
        pause = max(self._pause(), trouble.after)
        spent = time.monotonic() - self._began
        if spent + pause > self._seconds:
            tried = "once" if self._tries == 1 else f"{self._tries} times in {spent:.0f} s"
            raise StorageUnavailableError(
                f"{trouble} (tried {tried})",
                hint="it is tried again later; if that does not help, look at the store",
            ) from trouble
        await asyncio.sleep(pause)

    def _pause(self) -> float:
        longest = min(_LONGEST, _FIRST * 2.0 ** min(self._tries - 1, 10))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - it only spreads the tries


async def persist(seconds: float, attempt: Callable[[], Awaitable[T]]) -> T:
    """The result of `attempt`, which is made again after each PassingError."""
    patience = Patience(seconds)
    while True:
        try:
            return await attempt()
        except PassingError as trouble:
            await patience.wait(trouble)
