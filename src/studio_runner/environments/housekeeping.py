"""Keeps the cache within its budget, in the background: nobody has to wait for files to be removed."""

import asyncio
import logging
from pathlib import Path

from studio_runner.environments.cache import EnvironmentCache
from studio_runner.environments.programs import Programs
from studio_runner.environments.uninterrupted import uninterrupted
from studio_runner.environments.uvcache import forget, surplus
from studio_runner.errors import StudioRunnerError

logger = logging.getLogger(__name__)


class Housekeeper:
    """Owns the task that evicts; `close` ends it. `uv_cache` is uv's cache when it is the runner's own."""

    def __init__(self, cache: EnvironmentCache, uv_cache: Path, programs: Programs) -> None:
        self._cache = cache
        self._uv_cache = uv_cache
        self._programs = programs
        self._task: asyncio.Task[None] | None = None
        self._wanted = False

    def tidy(self) -> None:
        """Something was built, or left behind."""
        self._wanted = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name="evict environments")

    async def idle(self) -> None:
        """Until what is too much is gone."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await self.idle()

    async def _work(self) -> None:
        """As often as something was built meanwhile."""
        while self._wanted:
            self._wanted = False
            try:
                await self._evict()
            except (OSError, StudioRunnerError) as error:
                logger.warning("environments could not be evicted: %s", error)

    async def _evict(self) -> None:
        """Environments first, then what uv keeps of those that are gone."""
        room = await uninterrupted(asyncio.to_thread(self._cache.evict))
        if room is None:
            return
        names = await asyncio.to_thread(surplus, self._uv_cache, room)
        if names and await self._programs.run(forget(self._uv_cache, names), logger.warning):
            logger.warning("uv did not forget %s", ", ".join(names))
