"""Blocking work beside the event loop.

A thread per call instead of the loop's shared pool: a transfer can take minutes, and a handful of them in the pool
would keep the heartbeats that live there waiting. Starting a thread costs what handing work to the pool costs.
"""

import asyncio
from _thread import start_new_thread
from collections.abc import Callable
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[], T], *, on_cancel: Callable[[], None] | None = None) -> T:
    """The result of `work`, run in a thread of its own.

    A cancellation calls `on_cancel`, which should make `work` end soon, and is raised once it has ended: nothing
    goes on behind the caller's back.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
            loop.call_soon_threadsafe(outcome.set_exception, error)
        else:
            loop.call_soon_threadsafe(outcome.set_result, result)

    # Not `Thread.start`, which waits until the new thread runs: two switches between threads more.
    start_new_thread(copy_context().run, (run,))
    try:
        return await asyncio.shield(outcome)
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        await _settled(outcome)
        raise


async def _settled(outcome: "asyncio.Future[T]") -> None:
    """Wait for the thread, also through further cancellations; the first one is raised by the caller."""
    while not outcome.done():
        try:
            await asyncio.wait((outcome,))
        except asyncio.CancelledError:
            continue
    outcome.exception()  # looked at: the cancellation is what counts
