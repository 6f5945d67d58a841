"""Waiting for whichever of several things comes first."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any


async def heard(event: asyncio.Event, at_most: float) -> None:
    """Until the event is set or so many seconds have passed. (asyncio.wait_for of Python 3.11 loses a cancellation
    that comes together with the event.)"""
    with suppress(TimeoutError):
        async with asyncio.timeout(at_most):
            await event.wait()


async def first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Until one of them is over; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
