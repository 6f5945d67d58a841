"""What the watchers of this package have in common: one task each, for as long as their context lasts."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

log = logging.getLogger(__name__)


class Watcher(ABC):
    """Async context manager, for one event loop. Should its task ever fail, that is logged and those who wait are
    told: nothing is to run unwatched in silence."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=type(self).__name__)
        self._task.add_done_callback(self._ended)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @abstractmethod
    async def _run(self) -> None:
        """Watch, for ever."""

    @abstractmethod
    def _awaited(self) -> Iterable["asyncio.Future[Any]"]:
        """What those who wait are waiting for."""

    def _require_alive(self) -> None:
        """What it failed of, if it did: it would never answer."""
        if self._task and self._task.done() and not self._task.cancelled():
            self._task.result()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("%s failed: what it watched is ended", task.get_name(), exc_info=error)
        for future in self._awaited():
            if not future.done():
                future.set_exception(error)
