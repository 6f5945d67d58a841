# On the path of every artifact, where strings are several times faster than Path objects.
# ruff: noqa: PTH100, PTH116, PTH118, PTH108
"""Objects as files below one directory: the embedded default, and `file://` addresses."""

import fcntl
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from studio_runner.errors import ArtifactInvalidError, ObjectNotFoundError, PreconditionFailedError
from studio_runner.process.modes import share_file
from studio_runner.storage.base import CHUNK, ObjectInfo, Precondition
from studio_runner.storage.draft import HIDDEN, Draft, draft, sweep
from studio_runner.storage.faults import read_faults, write_faults
from studio_runner.storage.threads import in_thread

T = TypeVar("T")

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # opening a pipe must not hang
_LOCK = f"{HIDDEN}lock"
_HELD = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_PAGE = 1000


class _Place(NamedTuple):
    """Where an object is: a directory without links in it, and the name there."""

    directory: str
    name: str

    @property
    def path(self) -> str:
        return os.path.join(self.directory, self.name)


class FileStore:
    """A `Store` over the directory `root`, which is made by the first put.

    `info`, `read`, `write`, `entries` and `remove` are the same verbs for callers that are in a thread already.
    Conditional puts exclude each other, across processes too; an unconditional put always wins.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.path.abspath(root).rstrip("/")

    @property
    def here(self) -> Self:
        """It can be called from a thread (`storage.blocking`)."""
        return self

    def __repr__(self) -> str:
        return f"FileStore({self._root!r})"

    async def head(self, key: str) -> ObjectInfo:
        return await in_thread(partial(self.info, key))

    async def get(self, key: str) -> AsyncIterator[bytes]:
        reading, piece = await in_thread(partial(self._begin, key))
        with reading:
            left = reading.info.size
            while piece:
                yield piece
                left -= len(piece)
                piece = await in_thread(partial(next, reading, b"")) if left > 0 else b""

    async def put(self, key: str, stream: AsyncIterator[bytes], *, when: Precondition | None = None) -> ObjectInfo:
        pieces: list[bytes] = []
        size = 0
        async for piece in stream:
            pieces.append(piece)
            size += len(piece)
            if size > CHUNK:
                return await self._put_long(key, pieces, stream, when)
        return await in_thread(partial(self.write, key, pieces, when=when))

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        entries = self.entries(prefix)
        while page := await in_thread(lambda: tuple(islice(entries, _PAGE))):
            for entry in page:
                yield entry

    async def delete(self, key: str) -> None:
        await in_thread(partial(self.remove, key))

    def info(self, key: str) -> ObjectInfo:
        """As `head`."""
        with self.read(key) as reading:
            return reading.info

    def read(self, key: str) -> "FileReading":
        """As `get`; the result is a context that yields the pieces."""
        place = self._place(key)
        with read_faults(place.path):
            descriptor = self._open(key, place)
            status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise ObjectNotFoundError(f"no object at {place.path}: it is no file")
        return FileReading(descriptor, _info(key, status), place.path)

    def write(self, key: str, pieces: Iterable[bytes], *, when: Precondition | None = None) -> ObjectInfo:
        """As `put`."""
        place = self._place(key)
        with self._draft(place) as made:
            for piece in pieces:
                with write_faults(place.path):
                    made.write(piece)
            return self._publish(made, key, place, when)

    def entries(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """As `list`, in the order of the keys."""
        above = prefix.rpartition("/")[0]
        if above:
            self._place(f"{above}/any")
        return self._below(above + "/" if above else "", prefix)

    def remove(self, key: str) -> None:
        """As `delete`."""
        place = self._place(key)
        with write_faults(place.path), suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            os.unlink(place.path)

    def _begin(self, key: str) -> "tuple[FileReading, bytes]":
        reading = self.read(key)
        return reading, next(reading, b"")

    async def _put_long(
        self, key: str, pieces: Iterable[bytes], stream: AsyncIterator[bytes], when: Precondition | None
    ) -> ObjectInfo:
        place = self._place(key)
        context = self._draft(place)
        try:
            made = await in_thread(context.__enter__)
            for piece in pieces:
                await in_thread(partial(_guarded, place, partial(made.write, piece)))
            async for piece in stream:
                await in_thread(partial(_guarded, place, partial(made.write, piece)))
            return await in_thread(partial(self._publish, made, key, place, when))
        finally:
            await in_thread(partial(context.__exit__, None, None, None))

    @contextmanager
    def _draft(self, place: _Place) -> Iterator[Draft]:
        with write_faults(place.path):
            made = draft(place.directory)
        try:
            yield made
        finally:
            made.discard()

    def _publish(self, made: Draft, key: str, place: _Place, when: Precondition | None) -> ObjectInfo:
        with write_faults(place.path):
            info = _info(key, made.sync())
            if when is None:
                made.publish(place.path)
                return info
            with _locked(place.directory):
                if self._etag(key, place) != when.etag:
                    raise PreconditionFailedError(f"{place.path} is not the version that was to be replaced")
                made.publish(place.path)
        return info

    def _etag(self, key: str, place: _Place) -> str | None:
        try:
            return _info(key, os.stat(place.path)).etag
        except FileNotFoundError:
            return None

    def _place(self, key: str) -> _Place:
        """Where `key` is; ArtifactInvalidError when that would be outside the root."""
        for step in key.split("/"):
            if step in ("", ".", "..") or step.startswith(HIDDEN) or "\0" in step:
                raise ArtifactInvalidError(f"{key!r} is no key of an object: it leads out of the store, or nowhere")
        above, _, name = key.rpartition("/")
        if not above:
            return _Place(self._real_root, name)
        directory = f"{self._root}/{above}"
        real = os.path.realpath(directory)
        if real != directory:
            self._must_contain(real, key)
        return _Place(real, name)

    @cached_property
    def _real_root(self) -> str:
        return os.path.realpath(self._root or "/")

    def _must_contain(self, real: str, key: str) -> None:
        root = self._real_root.rstrip("/")
        if real != root and not real.startswith(f"{root}/"):
            raise ArtifactInvalidError(f"{key!r} leads out of the store {self._root} through a link")

    def _open(self, key: str, place: _Place) -> int:
        try:
            return os.open(place.path, _READ)
        except FileNotFoundError:
            raise
        except OSError:  # a link, for one
            real = os.path.realpath(place.path)
            if real == place.path:
                raise
            self._must_contain(real, key)
            return os.open(real, _READ)

    def _below(self, directory: str, prefix: str) -> Iterator[ObjectInfo]:
        """Objects in `directory` (a key that ends in `/`, or empty) and further down whose key starts so."""
        path = f"{self._root}/{directory}"
        for name, entry in _listing(path):
            key = directory + name
            if key.startswith(prefix) or (name.endswith("/") and prefix.startswith(key)):
                if name.endswith("/"):
                    yield from self._below(key, prefix)
                else:
                    with suppress(FileNotFoundError):
                        yield _info(key, entry.stat(follow_symlinks=False))


class FileReading:
    """An open object. One that nobody took, because its taker was cancelled, is closed when it is collected."""

    def __init__(self, descriptor: int, info: ObjectInfo, path: str) -> None:
        self.info = info
        self._descriptor = descriptor
        self._path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def __del__(self) -> None:
        self._close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        with read_faults(self._path):
            piece = os.read(self._descriptor, CHUNK)
        if not piece:
            raise StopIteration
        return piece

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _guarded(place: _Place, work: Callable[[], T]) -> T:
    with write_faults(place.path):
        return work()


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    etag = f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
    return ObjectInfo(key, status.st_size, etag, status.st_mtime)


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Held for a look and a rename; a lock that a killed process had is free again by itself."""
    descriptor = os.open(f"{directory}/{_LOCK}", _HELD, 0o666)
    with suppress(PermissionError):  # somebody else made it
        share_file(descriptor, directory)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _listing(path: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Entries by key order, directories with a `/` after their name; links are neither."""
    with write_faults(path):
        try:
            with os.scandir(path) as listing:
                entries = list(listing)
        except (FileNotFoundError, NotADirectoryError):
            return
        if any(entry.name.startswith(HIDDEN) for entry in entries):
            sweep(path)
        found = []
        for entry in entries:
            if entry.name.startswith(HIDDEN):
                continue
            if entry.is_dir(follow_symlinks=False):
                found.append((f"{entry.name}/", entry))
            elif entry.is_file(follow_symlinks=False):
                found.append((entry.name, entry))
    yield from sorted(found, key=lambda pair: pair[0])
