"""Images for experiments: found in the cache in a moment, brought or pulled once when they are not there."""

import asyncio
import logging
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from studio_runner.config.settings import ContainerSettings
from studio_runner.environments.base import CacheUsage, Log
from studio_runner.environments.images.base import Image, ImageSource
from studio_runner.environments.images.cache import ImageCache, Record, Slot, key_of
from studio_runner.environments.images.getting import Getter
from studio_runner.environments.images.pull import Puller
from studio_runner.environments.images.sources import RegistryImage
from studio_runner.environments.uninterrupted import uninterrupted
from studio_runner.errors import EnvironmentUnavailableError
from studio_runner.messages.units import format_duration

logger = logging.getLogger(__name__)

FOLDER = "images"
"""Below the cache directory."""

AGAIN = 60.0
"""Seconds after which a registry that did not answer is asked again."""


class KeptImages:
    """Images below `cache_dir`, at most `budget` bytes of them (0: no limit). An async context manager."""

    def __init__(self, cache_dir: Path, budget: int, settings: ContainerSettings, puller: Puller) -> None:
        self._cache = ImageCache(cache_dir / FOLDER, budget)
        self._recheck = settings.recheck
        self._patience = settings.pull_timeout or None
        self.getter = Getter(self._cache, settings, puller)
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._tidying: asyncio.Task[None] | None = None
        self._excess = False
        self._hits = self._misses = 0

    async def __aenter__(self) -> Self:
        """OSError when the directory cannot be had."""
        await asyncio.to_thread(self._cache.begin)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await uninterrupted(self.tidied())

    async def usage(self) -> CacheUsage:
        size = await asyncio.to_thread(self._cache.usage)
        return CacheUsage(hits=self._hits, misses=self._misses, size=size)

    async def tidied(self) -> None:
        """Until what is too much has been evicted."""
        while self._tidying is not None and not self._tidying.done():
            await asyncio.wait((self._tidying,))

    def obtain(self, source: ImageSource, log: Log) -> AbstractAsyncContextManager[Image]:
        """As `Images.obtain`."""
        return self._obtain(source, log)

    @asynccontextmanager
    async def _obtain(self, source: ImageSource, log: Log) -> AsyncIterator[Image]:
        try:
            slot = await self._slot(source, log)
        except OSError as error:
            raise EnvironmentUnavailableError(
                f"The image {source.name} cannot be kept on this machine: {error}",
                hint="The runner's cache directory must be writable, and its disk must not be full.",
            ) from error
        try:
            yield slot.image(source.name)
        finally:
            slot.close()
            if self._excess:
                self._tidy()

    async def _slot(self, source: ImageSource, log: Log) -> Slot:
        """From the cache, or into it; when whoever is at it fails or is cancelled, the next one waiting tries."""
        key = key_of(source.identity)
        if slot := await self._current(source, key):
            return slot
        async with AsyncExitStack() as stack:
            await self._wait_for_turn(stack, source, key, log)
            return await self._current(source, key) or await self._renewed(source, key, log)

    async def _wait_for_turn(self, stack: AsyncExitStack, source: ImageSource, key: str, log: Log) -> None:
        """No longer than fetching may take: whoever is at it may stand still."""
        say = partial(log, f"the image {source.name} is being fetched for another experiment; waiting for it")
        turn = self._turns.setdefault(key, asyncio.Lock())
        if turn.locked():
            say()
        try:
            async with asyncio.timeout(self._patience):
                await stack.enter_async_context(turn)
                await stack.enter_async_context(self._cache.claim(key, say))
        except TimeoutError as error:
            raise EnvironmentUnavailableError(
                f"The image {source.name} has been fetched for another experiment for too long",
                hint="A runner that uses the same cache directory may stand still; --pull-timeout is the limit.",
            ) from error

    async def _current(self, source: ImageSource, key: str) -> Slot | None:
        """What is there, if it need not be looked at again."""
        record = self._cache.record(key)
        if record is None or not self._fresh(source, record):
            return None
        slot = await asyncio.to_thread(self._cache.find, record.digest)
        self._hits += slot is not None
        return slot

    def _fresh(self, source: ImageSource, record: Record) -> bool:
        if not isinstance(source, RegistryImage) or source.reference.pinned:
            return True
        return 0 <= time.time() - record.looked < self._recheck

    async def _renewed(self, source: ImageSource, key: str, log: Log) -> Slot:
        record, now = self._cache.record(key), time.time()
        try:
            got = await self.getter.get(source, record, log)
        except EnvironmentUnavailableError as error:
            older = await asyncio.to_thread(self._cache.find, record.digest) if record else None
            if record is None or older is None:
                raise
            self._hits += 1
            log(f"{error}; the copy that was made {format_duration(now - record.fetched)} ago is used")
            self._cache.note(key, replace(record, looked=now - max(0.0, self._recheck - AGAIN)))
            return older
        same = record is not None and record.digest == got.slot.digest
        self._hits += same
        self._misses += not same
        fetched = record.fetched if record is not None and same else now
        self._cache.note(key, Record(got.slot.digest, got.version, fetched, now))
        self._tidy()
        return got.slot

    def _tidy(self) -> None:
        """There may be too much now."""
        if self._tidying is None or self._tidying.done():
            self._tidying = asyncio.create_task(self._evict(), name="evict images")

    async def _evict(self) -> None:
        try:
            self._excess = await uninterrupted(asyncio.to_thread(self._cache.evict))
        except OSError as error:
            logger.warning("images could not be evicted: %s", error)
