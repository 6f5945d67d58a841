"""Work that must not be left half done: a cancellation waits for it."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def uninterrupted(work: Awaitable[T]) -> T:
    """Wait for `work` to the end, then let a cancellation that came meanwhile go on.

    For threads, which cannot be cancelled: whoever holds a lock for one must not give it back while it still runs.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        task.exception()  # nobody is left to hear of it
        raise cancelled
    return task.result()
