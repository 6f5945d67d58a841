"""Reading ahead from a store across the network: several ranges of an object at once, handed on in order."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from studio_runner.errors import ObjectNotFoundError, PreconditionFailedError, StorageUnavailableError
from studio_runner.storage.base import CHUNK, ObjectInfo, Remote
from studio_runner.storage.flow import Inflow

PART = 8 << 20
"""Bytes of one range; an object of at most so many is read by one request and held as a whole."""

WINDOW = 8
"""Parts that are asked for or wait to be worked on: 64 MiB for one transfer at most."""


def in_parts(info: ObjectInfo) -> bool:
    """Whether ranges can be asked for, and told to be of this version."""
    return info.in_parts and bool(info.etag) and info.size > PART


async def whole(stream: AsyncIterator[bytes]) -> list[bytes]:
    return [piece async for piece in stream]


async def pour(stream: AsyncIterator[bytes], flow: Inflow) -> None:
    """Hand on a stream of which nothing can be asked for ahead, in pieces worth handing over."""
    held: list[bytes] = []
    size = 0
    async for piece in stream:
        held.append(piece)
        size += len(piece)
        if size >= CHUNK:
            await flow.room()
            flow.push(b"".join(held))
            held, size = [], 0
    await flow.room()
    flow.push(b"".join(held))


class Ranges:
    """One object, whose first part comes by the request that opened it and the others by one of their own each."""

    def __init__(self, there: Remote, info: ObjectInfo) -> None:
        self._there = there
        self._info = info
        self._parts: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()

    async def pour(self, stream: AsyncIterator[bytes], flow: Inflow) -> None:
        """Hand on the object; `stream` are its bytes from the start. Errors are those of `Remote`."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._deliver(flow), name="deliver parts")
                group.create_task(self._ask(group, stream, flow), name="ask for parts")
        except BaseExceptionGroup as errors:
            raise _named(errors.exceptions[0], self._info.key) from errors

    async def _ask(self, group: asyncio.TaskGroup, stream: AsyncIterator[bytes], flow: Inflow) -> None:
        await flow.room()
        self._parts.put_nowait(group.create_task(_first(stream)))
        key, size, etag = self._info.key, self._info.size, self._info.etag
        for start in range(PART, size, PART):
            await flow.room()
            reading = self._there.read_range(key, start, min(start + PART, size), etag)
            self._parts.put_nowait(group.create_task(reading, name=f"read {key} from {start}"))
        self._parts.put_nowait(None)

    async def _deliver(self, flow: Inflow) -> None:
        while (part := await self._parts.get()) is not None:
            flow.push(await part)


def _named(error: BaseException, key: str) -> BaseException:
    """What ended the transfer; that another version is there now is nothing that the caller asked about."""
    if isinstance(error, PreconditionFailedError | ObjectNotFoundError):
        return StorageUnavailableError(
            f"{key} was replaced while it was read", hint="it is read again from its start later"
        )
    return error


async def _first(stream: AsyncIterator[bytes]) -> bytes:
    """The first part; the rest of the stream is left where it is."""
    held: list[bytes] = []
    size = 0
    async with closing(stream):
        async for piece in stream:
            held.append(piece)
            size += len(piece)
            if size >= PART:
                break
    return b"".join(held)[:PART]


@asynccontextmanager
async def closing(stream: AsyncIterator[bytes]) -> AsyncIterator[None]:
    """A stream that is left early is closed now and not when it is collected."""
    try:
        yield
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()
