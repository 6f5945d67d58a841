"""The storage seam: objects by key, streamed. One `Store` is one bucket (or one directory)."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

CHUNK = 1 << 20
"""Bytes per piece of a stream, roughly; a stream may use any other size."""


@dataclass(frozen=True)
class ObjectInfo:
    """What a store knows of an object; `etag` changes whenever the content does; `modified` is Unix time;
    `in_parts`: ranges of it can be asked for."""

    key: str
    size: int
    etag: str
    modified: float
    in_parts: bool = field(default=True, compare=False)


@dataclass(frozen=True)
class Precondition:
    """What must hold for a put: the object has this etag, or (`etag` None) does not exist."""

    etag: str | None


class Store(Protocol):
    """Objects of one bucket. Errors: ObjectNotFoundError, UnauthorisedError, StorageUnavailableError."""

    async def head(self, key: str) -> ObjectInfo: ...

    def get(self, key: str) -> AsyncIterator[bytes]:
        """The object's bytes from the start. ObjectNotFoundError comes with the first piece."""
        ...

    async def put(self, key: str, stream: AsyncIterator[bytes], *, when: Precondition | None = None) -> ObjectInfo:
        """Write the object; readers see the old or the new one, never a part. PreconditionFailedError when
        `when` does not hold."""
        ...

    def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]: ...
    async def delete(self, key: str) -> None:
        """Remove the object; one that is not there is no error."""
        ...


class Remote(Protocol):
    """What a store across the network has besides: a whole transfer in the fewest requests.

    `remote(store)` tells whether a store has it. Errors are those of `Store`.
    """

    def open(self, key: str) -> AbstractAsyncContextManager[tuple[ObjectInfo, AsyncIterator[bytes]]]:
        """What the object is and its bytes, by one request; ObjectNotFoundError on entry. Leaving the context ends
        the transfer. The bytes are of one version: a broken connection is taken up again where it broke, and a
        version that vanished meanwhile is StorageUnavailableError."""
        ...

    async def read_range(self, key: str, start: int, end: int, etag: str) -> bytes:
        """The bytes from `start` up to `end` of the version `etag`; PreconditionFailedError when the object is
        another now."""
        ...


def remote(store: Store) -> Remote | None:
    """The store as one across the network, where it is one."""
    there: Remote | None = getattr(store, "there", None)
    return there
