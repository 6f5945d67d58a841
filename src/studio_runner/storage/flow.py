"""Pieces of a stream on their way between the event loop and one thread that works on them.

Both directions hold a bounded number of pieces, so that work and network overlap without holding a whole archive,
and cost one hand-over per piece, not one thread.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from queue import SimpleQueue
from threading import Semaphore
from typing import TypeVar

from studio_runner.storage.archive import GivenUpError
from studio_runner.storage.threads import in_thread

T = TypeVar("T")


class Inflow:
    """From the event loop to a thread, which iterates over it; made on the loop."""

    def __init__(self, window: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(window)
        self._pieces: SimpleQueue[bytes | BaseException | None] = SimpleQueue()

    async def room(self) -> None:
        """Wait until one more piece may be asked for; `push` follows."""
        await self._room.acquire()

    def push(self, piece: bytes) -> None:
        self._pieces.put(piece)

    def give_up(self) -> None:
        """Make the thread stop waiting."""
        self._pieces.put(GivenUpError())

    def end(self, producer: "asyncio.Task[None]") -> None:
        """No more pieces come: the producer is done, and what became of it is the thread's to raise."""
        self._pieces.put(GivenUpError() if producer.cancelled() else producer.exception())

    def __iter__(self) -> Iterator[bytes]:
        while (piece := self._pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
            self._loop.call_soon_threadsafe(self._room.release)


async def taken_in(
    produce: Callable[[Inflow], Awaitable[None]],
    consume: Callable[[Iterable[bytes]], T],
    give_up: Callable[[], None],
    window: int,
) -> T:
    """The result of `consume`, in a thread, over the pieces that `produce` pushes meanwhile.

    The first error of either ends both and is raised. A cancellation calls `give_up`, which should make `consume`
    end soon.
    """
    flow = Inflow(window)
    producer = asyncio.ensure_future(_run(produce, flow))
    producer.add_done_callback(flow.end)

    def stop() -> None:
        give_up()
        flow.give_up()

    try:
        return await in_thread(partial(consume, flow), on_cancel=stop)
    finally:
        await _ended(producer)


async def _run(produce: Callable[[Inflow], Awaitable[None]], flow: Inflow) -> None:
    await produce(flow)


async def _ended(task: "asyncio.Task[None]") -> None:
    """Cancel the task and wait for it; its error, if any, was handed on."""
    task.cancel()
    await asyncio.wait((task,))


class Outflow:
    """From a thread to the event loop, which iterates over it; made on the loop."""

    def __init__(self, window: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._room = Semaphore(window)
        self._stopped = False
        self._pieces: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()

    def push(self, piece: bytes) -> None:
        """Called in the thread; waits for room. GivenUpError when nobody takes pieces any more."""
        self._room.acquire()
        if self._stopped:
            raise GivenUpError
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

    def stop(self) -> None:
        """Make the thread end soon."""
        self._stopped = True
        self._room.release()

    def end(self, producer: "asyncio.Task[None]") -> None:
        """No more pieces come."""
        self._pieces.put_nowait(GivenUpError() if producer.cancelled() else producer.exception())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := await self._pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
            self._room.release()


@asynccontextmanager
async def given_out(source: Iterable[bytes], window: int) -> AsyncIterator[AsyncIterator[bytes]]:
    """The pieces of `source`, made in a thread ahead of being wanted. Leaving the context ends the thread; an error
    of `source` is raised where its pieces are taken."""
    flow = Outflow(window)

    def produce() -> None:
        for piece in source:
            flow.push(piece)

    producer = asyncio.ensure_future(in_thread(produce, on_cancel=flow.stop))
    producer.add_done_callback(flow.end)
    try:
        yield flow.__aiter__()
    finally:
        await _ended(producer)
