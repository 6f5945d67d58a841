"""Small documents by key, in a directory or in a store: what records are made of."""

import asyncio
import contextlib
import errno
import fcntl
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from studio_runner.errors import ConfigError, ObjectNotFoundError, PreconditionFailedError, StorageUnavailableError
from studio_runner.messages.jsontext import beginning
from studio_runner.process.modes import make_directories, share_file
from studio_runner.process.regular import open_regular

Edit = Callable[[bytes | None], bytes | None]
"""From what a document holds now (None: it does not exist) to what it shall hold (None: what it holds)."""

Condition_contra = TypeVar("Condition_contra", contravariant=True)

LARGEST = 64 << 20
"""Bytes of the longest document: as much as a message may have."""

_LOCK = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_TRIES = 10
"""Of a conditional put; that many others in a row do not change one record."""
_AT_ONCE = 16
"""Documents that are read at the same time."""


class Documents(Protocol):
    """Small documents by key, changed one at a time."""

    async def read(self, key: str) -> bytes | None: ...
    async def change(self, key: str, edit: Edit) -> None:
        """Replace the document by `edit` of it; nobody else's change gets lost in between where the place can
        prevent that."""
        ...

    async def version(self, key: str) -> str | None:
        """Something cheap that changes whenever the document does; None when there is none."""
        ...

    async def all(self, prefix: str) -> Sequence[tuple[str, bytes]]:
        """Every document directly under `prefix` (which ends with a slash), with the rest of its key."""
        ...


class DirectoryDocuments:
    """Documents as files under `root`; a change is one thread hop, under a lock that works across processes.

    Not synced to the disk: a record that a power cut takes back a few seconds tells nobody anything wrong that
    `_results` would not put right.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    async def read(self, key: str) -> bytes | None:
        return await asyncio.to_thread(self._content, self._root / key)

    async def version(self, key: str) -> str | None:
        return await asyncio.to_thread(_version, self._root / key)

    async def change(self, key: str, edit: Edit) -> None:
        await asyncio.to_thread(self._change, key, edit)

    async def all(self, prefix: str) -> Sequence[tuple[str, bytes]]:
        return await asyncio.to_thread(lambda: list(self._walk(self._root / prefix)))

    def _change(self, key: str, edit: Edit) -> None:
        path = self._root / key
        try:
            with self._lock():
                content = self._content(path)
                changed = edit(content)
                if changed is not None and changed != content:
                    self._must_contain(path)
                    _replace(path, changed)
        except OSError as error:
            raise StorageUnavailableError(
                f"The record {path} could not be written: {error.strerror or error}",
                hint="Check the disk's free space and the permissions of the directory.",
            ) from error

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        name = self._root / ".lock"
        try:
            descriptor = os.open(name, _LOCK)
        except FileNotFoundError:
            descriptor = self._new_lock(name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _new_lock(self, name: Path) -> int:
        make_directories(str(self._root))
        try:
            descriptor = os.open(name, _LOCK | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:  # somebody was faster
            return os.open(name, _LOCK)
        share_file(descriptor, str(self._root))
        return descriptor

    def _content(self, path: Path) -> bytes | None:
        inside = self._inside(path)
        return _read(inside) if inside else None

    def _inside(self, path: Path) -> Path | None:
        """The path without links to its directory. None when they lead out of the database: others may write into a
        sender's."""
        directory = path.parent.resolve()
        return directory / path.name if directory.is_relative_to(self._root.resolve()) else None

    def _must_contain(self, path: Path) -> None:
        if not self._inside(path):
            raise OSError(errno.ELOOP, "a link leads out of the database", str(path.parent))

    def _walk(self, directory: Path) -> Iterator[tuple[str, bytes]]:
        try:
            entries = list(os.scandir(directory))
        except FileNotFoundError:
            return
        for entry in entries:
            if entry.name.startswith(".") or not entry.is_file(follow_symlinks=False):
                continue
            content = self._content(Path(entry.path))
            if content is not None:
                yield entry.name, content


class Named(Protocol):
    """What a store says of an object."""

    @property
    def key(self) -> str: ...
    @property
    def etag(self) -> str: ...


class ObjectStore(Protocol[Condition_contra]):
    """The part of a store (`storage.base.Store`) that documents need."""

    async def head(self, key: str) -> Named: ...
    def get(self, key: str) -> AsyncIterator[bytes]: ...
    async def put(
        self, key: str, stream: AsyncIterator[bytes], *, when: Condition_contra | None = None
    ) -> object: ...
    def list(self, prefix: str = "") -> AsyncIterator[Named]: ...


class _OneRequest(Protocol):
    """A store that tells an object and its bytes by one request (`storage.base.Remote`)."""

    def open(self, key: str) -> AbstractAsyncContextManager[tuple[Named, AsyncIterator[bytes]]]: ...


class StoreDocuments(Generic[Condition_contra]):
    """Documents as objects of a store, which must not change between being read and being written: `condition`
    makes of an etag (None: no object) what a put of the store demands."""

    def __init__(
        self, store: ObjectStore[Condition_contra], condition: Callable[[str | None], Condition_contra]
    ) -> None:
        self._store, self._condition = store, condition

    async def read(self, key: str) -> bytes | None:
        return (await self._version(key))[1]

    async def version(self, key: str) -> str | None:
        try:
            return (await self._store.head(key)).etag
        except ObjectNotFoundError:
            return None

    async def change(self, key: str, edit: Edit) -> None:
        absent = 0
        for attempt in range(_TRIES):
            etag, content = await self._version(key)
            if etag is None and (absent := absent + 1) > 2:
                raise ConfigError(
                    f"The store will not have a record called {key}, and has none",
                    hint="Some stores cannot have an object `a/b` beside objects `a/b/...`: keep the records "
                    "(database) in another bucket than the artifacts (storage).",
                )
            changed = edit(content)
            if changed is None or changed == content:
                return
            try:
                await self._store.put(key, _stream(changed), when=self._condition(etag))
            except PreconditionFailedError:  # somebody was faster: what they wrote is changed instead
                await asyncio.sleep(random.uniform(0, 0.02 * 2 ** min(attempt, 6)))  # noqa: S311 - no secret
            else:
                return
        raise StorageUnavailableError(f"The record {key} was changed by others {_TRIES} times in a row")

    async def all(self, prefix: str) -> Sequence[tuple[str, bytes]]:
        keys = [found.key async for found in self._store.list(prefix)]
        direct = [key for key in keys if "/" not in key.removeprefix(prefix)]
        places = asyncio.Semaphore(_AT_ONCE)

        async def read(key: str) -> bytes | None:
            async with places:
                return await self.read(key)

        contents = await asyncio.gather(*map(read, direct))
        found = zip(direct, contents, strict=True)
        return [(key.removeprefix(prefix), content) for key, content in found if content is not None]

    async def _version(self, key: str) -> tuple[str | None, bytes | None]:
        """The etag first: a change in between fails the put, and is not overwritten by it."""
        there: _OneRequest | None = getattr(self._store, "there", None)
        try:
            if there is not None:
                async with there.open(key) as (info, pieces):
                    return info.etag, await _whole(key, pieces)
            etag = (await self._store.head(key)).etag
            return etag, await _whole(key, self._store.get(key))
        except ObjectNotFoundError:
            return None, None


async def _whole(key: str, pieces: AsyncIterator[bytes]) -> bytes:
    content = await beginning(pieces, LARGEST + 1)
    if len(content) > LARGEST:
        raise StorageUnavailableError(f"The record {key} is larger than {LARGEST:,} bytes")
    return content


def _read(path: Path) -> bytes | None:
    """None also for what can be none."""
    descriptor = open_regular(path)
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        size = os.fstat(descriptor).st_size
        return file.read(size) if size <= LARGEST else None  # it may grow


def _version(path: Path) -> str | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return f"{found.st_ino} {found.st_mtime_ns} {found.st_size}"


def _replace(path: Path, content: bytes) -> None:
    """Write beside and rename. Under the lock nobody else uses the name beside."""
    beside = path.with_name(".new")
    try:
        _write(beside, content)
    except FileNotFoundError:
        make_directories(str(path.parent))
        _write(beside, content)
    beside.rename(path)


def _write(path: Path, content: bytes) -> None:
    """What lies there already was left by a killed process, or is a trap: it is not written through."""
    try:
        descriptor = os.open(path, _NEW, 0o666)
    except FileExistsError:
        path.unlink()
        descriptor = os.open(path, _NEW, 0o666)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        share_file(file.fileno(), str(path.parent))
        left = memoryview(content)
        while left:
            left = left[file.write(left) :]


async def _stream(content: bytes) -> AsyncIterator[bytes]:
    yield content
