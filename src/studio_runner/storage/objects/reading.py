"""One version of an object on its way here."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from typing import NamedTuple

from studio_runner.errors import ObjectNotFoundError, PreconditionFailedError, StorageUnavailableError
from studio_runner.storage.base import ObjectInfo
from studio_runner.storage.objects.client import Reply
from studio_runner.storage.objects.retry import PassingError, Patience

UNKNOWN = -1
"""The size of what a web server sends without saying how much it is."""


class Source(NamedTuple):
    """How an object is asked for."""

    ask: Callable[[Mapping[str, str]], AbstractAsyncContextManager[Reply]]
    """A GET with these headers besides the usual ones; refusals are raised."""
    describe: Callable[[Reply], ObjectInfo]
    pinned: Callable[[str], Mapping[str, str]]
    """The headers that ask for the version of an etag."""


@asynccontextmanager
async def reading(source: Source, patience: float) -> AsyncIterator[tuple[ObjectInfo, AsyncIterator[bytes]]]:
    """What an object is and its bytes, all of one version: a broken connection is taken up where it broke."""
    async with AsyncExitStack() as stack:
        transfer = _Transfer(source, Patience(patience), stack)
        info = await transfer.begin()
        async with aclosing(transfer.pieces()) as pieces:
            yield info, pieces


class _Transfer:
    def __init__(self, source: Source, patience: Patience, stack: AsyncExitStack) -> None:
        self._source = source
        self._patience = patience
        self._stack = stack
        self._at = 0

    async def begin(self) -> ObjectInfo:
        self._reply = await self._persist({})
        self._info = self._source.describe(self._reply)
        return self._info

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        skip = 0
        while True:
            try:
                async for piece in self._reply.pieces():
                    rest, skip = piece[skip:], max(0, skip - len(piece))
                    if rest:
                        self._at += len(rest)
                        self._patience.renew()
                        yield rest
                self._must_be_whole()
            except PassingError as trouble:
                await self._patience.wait(trouble)
                skip = await self._resume()
            else:
                return

    def _must_be_whole(self) -> None:
        if self._info.size not in {UNKNOWN, self._at}:
            raise PassingError(
                f"{self._info.key}: the answer ended after {self._at:,} of {self._info.size:,} bytes"
            )

    async def _resume(self) -> int:
        """Ask for the rest; returns how many bytes of the answer are here already."""
        headers = {"range": f"bytes={self._at}-", **self._source.pinned(self._info.etag)}
        try:
            self._reply = await self._persist(headers)
        except (PreconditionFailedError, ObjectNotFoundError) as error:
            raise self._changed() from error
        partial = self._reply.status == 206
        if not partial and self._source.describe(self._reply).etag != self._info.etag:
            raise self._changed()
        return 0 if partial else self._at

    async def _persist(self, headers: Mapping[str, str]) -> Reply:
        while True:
            await self._stack.aclose()
            try:
                return await self._stack.enter_async_context(self._source.ask(headers))
            except PassingError as trouble:
                await self._patience.wait(trouble)

    def _changed(self) -> StorageUnavailableError:
        return StorageUnavailableError(
            f"{self._info.key} was replaced while it was read", hint="it is read again from its start later"
        )
