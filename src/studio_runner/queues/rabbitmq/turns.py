"""Whose turn it is to ask for a message: the queue that was served longest ago, so that a long queue does not
starve a short one."""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turn:
    """Held by one queue at a time."""

    def __init__(self) -> None:
        self.served = False
        """Set when the queue got something."""


class Turns:
    """A lock that the least recently served gets first."""

    def __init__(self) -> None:
        self._serials = itertools.count(1)
        self._last: dict[str, int] = {}
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._taken = False

    @asynccontextmanager
    async def turn(self, queue: str) -> AsyncIterator[Turn]:
        await self._acquire(queue)
        turn = Turn()
        try:
            yield turn
        finally:
            if turn.served:
                self.serve(queue)
            self._release()

    def serve(self, queue: str) -> None:
        """The queue got something."""
        self._last[queue] = next(self._serials)

    def forget(self, queue: str) -> None:
        """The queue is not served any more."""
        self._last.pop(queue, None)

    async def _acquire(self, queue: str) -> None:
        if not self._taken:
            self._taken = True
            return
        called = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (self._last.get(queue, 0), next(self._serials), called))
        try:
            await called
        except asyncio.CancelledError:
            if called.done() and not called.cancelled():
                self._release()
            called.cancel()
            raise

    def _release(self) -> None:
        while self._waiting:
            _, _, called = heapq.heappop(self._waiting)
            if not called.done():
                called.set_result(None)
                return
        self._taken = False
