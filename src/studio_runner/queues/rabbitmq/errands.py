"""Work that is carried through though its caller is cancelled: a half-done exchange with the broker would cost
the channel, and with it everything that is held there."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from studio_runner.errors import StudioRunnerError

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Errands:
    """Owns its tasks until they are done."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(
        self, work: Coroutine[Any, Any, Result], undo: Callable[[Result], Awaitable[None]] | None = None
    ) -> Result:
        """The result of `work`. When the caller is cancelled meanwhile, `work` goes on, and its result is given
        to `undo`."""
        task = self.start(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if undo is not None and not task.cancelled():
                self.start(_undone(task, undo))
            raise

    def start(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """In the background; whoever does not await it does not hear of its failure."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, StudioRunnerError):
            log.error("work with RabbitMQ failed unexpectedly", exc_info=error)

    async def close(self, patience: float) -> None:
        """Let what is under way end, for a while."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=patience)
        for task in set(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _undone(task: "asyncio.Task[Result]", undo: Callable[[Result], Awaitable[None]]) -> None:
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is None:
        await undo(task.result())
