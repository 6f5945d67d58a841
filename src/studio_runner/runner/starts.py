"""Starting goes before finishing: on a busy machine the next experiment has its cores and waits, and the files of
the last one can wait a moment."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PATIENCE = 0.02
"""Seconds that a finish waits for starts, at most."""


class Starts:
    """The attempts on their way to their first process."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """One attempt is starting."""
        self._count += 1
        self._none.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._none.set()

    async def let_pass(self) -> None:
        """Return when none is starting, or after a moment."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._none.wait()
