"""Artifacts on their way to an experiment and back.

With a store on this machine a whole transfer is one piece of work in one thread; with any other its stream is
carried over piece by piece. Either way nothing holds a whole archive, and a cancelled transfer leaves no part of an
object.
"""

import asyncio
import logging
import posixpath
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from studio_runner.errors import (
    ArtifactInvalidError,
    ArtifactMissingError,
    DiskExceededError,
    ExperimentError,
    ObjectNotFoundError,
    StorageUnavailableError,
    UnauthorisedError,
)
from studio_runner.messages.artifact import Artifact
from studio_runner.storage.archive import GivenUpError, Note, Unpacker, pack, pack_file
from studio_runner.storage.base import ObjectInfo, Store
from studio_runner.storage.blocking import BlockingStore, blocking
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.compression import Compression
from studio_runner.storage.faults import disk_fault
from studio_runner.storage.receive import Placement, Sink, Verification
from studio_runner.storage.scan import Fingerprint, fingerprint
from studio_runner.storage.single import read_file, single_file
from studio_runner.storage.threads import in_thread

_log = logging.getLogger(__name__)
_FILE_CLOCK = getattr(time, "CLOCK_REALTIME_COARSE", time.CLOCK_REALTIME)
"""The clock that file times are taken from."""


SMALL = 1 << 17
"""Bytes below which artifacts on this machine are carried one after the other, in one thread for all of them:
starting a thread for each would take longer than the carrying."""


class Fetch(NamedTuple):
    """One artifact to be brought into `directory`; `upload` is marked when something came."""

    artifact: Artifact
    store: Store
    key: str
    directory: Path
    upload: "Upload | None"


class Put(NamedTuple):
    """A small object to be written."""

    store: Store
    key: str
    body: bytes


class Removal(NamedTuple):
    """An object that must not be there."""

    store: Store
    key: str


async def fetch_all(fetches: Sequence[Fetch], removals: Sequence[Removal], budget: DiskBudget) -> None:
    """Bring every artifact here and remove what must not be there, side by side; the first error ends the others.

    Errors are those of `fetch`, in an ExceptionGroup.
    """
    large, left = await in_thread(partial(_begin_small, fetches, removals, budget))
    async with asyncio.TaskGroup() as group:
        for removal in left:
            group.create_task(removal.store.delete(removal.key), name=f"remove {removal.key}")
        for one in large:
            group.create_task(_fetch_one(one, budget), name=f"fetch {one.artifact.label}")


def _begin_small(
    fetches: Sequence[Fetch], removals: Sequence[Removal], budget: DiskBudget
) -> tuple[list[Fetch], list[Removal]]:
    """Do what is small, in this thread; returns the rest, what is in trouble included."""
    large = [one for one in fetches if not ((store := blocking(one.store)) and _fetched(one, store, budget))]
    return large, [one for one in removals if not ((store := blocking(one.store)) and _removed(store, one.key))]


def _removed(store: BlockingStore, key: str) -> bool:
    try:
        store.remove(key)
    except ExperimentError:
        return False
    return True


def _fetched(one: Fetch, store: BlockingStore, budget: DiskBudget) -> bool:
    work = _Fetch(one.artifact, one.key, one.directory, budget)
    try:
        if one.artifact.mutable and not _there(store, one.key):
            work.make_directory()
            return True
        if store.info(one.key).size > SMALL:
            return False
        work.run(store)
    except (ExperimentError, ObjectNotFoundError):
        return False
    if one.upload:
        one.upload.mark_now()
    return True


async def _fetch_one(one: Fetch, budget: DiskBudget) -> None:
    if await fetch(one.artifact, one.store, one.key, one.directory, budget) and one.upload:
        await one.upload.mark()


async def upload_all(uploads: Sequence["Upload"], puts: Sequence[Put]) -> None:
    """Bring back what changed and write the objects, side by side; all are tried before the first error is raised.

    Errors are those of `Upload.upload`.
    """
    large, left = await in_thread(partial(_upload_small, uploads, puts))
    rest = [*(one.upload() for one in large), *(one.store.put(one.key, _whole(one.body)) for one in left)]
    for result in await asyncio.gather(*rest, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _upload_small(uploads: Sequence["Upload"], puts: Sequence[Put]) -> tuple[list["Upload"], list[Put]]:
    """Do what is small, in this thread; returns the rest, what is in trouble included."""
    large = [one for one in uploads if not one.upload_small()]
    return large, [one for one in puts if not ((store := blocking(one.store)) and _written(store, one))]


def _written(store: BlockingStore, put: Put) -> bool:
    try:
        store.write(put.key, [put.body])
    except ExperimentError:
        return False
    return True


async def _whole(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def put_document(artifact: Artifact, store: Store, key: str, name: str, body: bytes) -> None:
    """Store an artifact that is one document: bare, or as the file `name` in an archive where the artifact is to be
    unpacked. Errors are those of `Store.put`."""
    content = pack_file(name, body, Compression.of_name(key)) if artifact.unpack else body
    await store.put(key, _whole(content))


async def fetch(
    artifact: Artifact, store: Store, key: str, directory: Path, budget: DiskBudget
) -> ObjectInfo | None:
    """Bring the object `key` of `store` into `directory`, which is made; None when it is not there and need not be.

    ArtifactMissingError, ArtifactInvalidError, DiskExceededError, StorageUnavailableError, UnauthorisedError.
    """
    work = _Fetch(artifact, key, directory, budget)
    with _about(artifact):
        try:
            if local := blocking(store):
                return await in_thread(partial(work.run, local), on_cancel=work.give_up)
            return await work.stream(store)
        except ObjectNotFoundError as error:
            if artifact.mutable:
                return None
            raise ArtifactMissingError(
                f"artifact {artifact.label} is not at {artifact.address}",
                hint="upload it, or make it mutable if it may be missing",
            ) from error


@contextmanager
def _about(artifact: Artifact) -> Iterator[None]:
    """Errors of the body say which artifact they are about."""
    try:
        yield
    except (ArtifactInvalidError, DiskExceededError, StorageUnavailableError, UnauthorisedError) as error:
        message = f"artifact {artifact.label} ({artifact.address}): {error}"
        raise type(error)(message, hint=error.hint) from error


@asynccontextmanager
async def _closing(stream: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
    """A stream that is left early is closed now and not when it is collected."""
    try:
        yield stream
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


class _Fetch:
    """One artifact being fetched."""

    def __init__(self, artifact: Artifact, key: str, directory: Path, budget: DiskBudget) -> None:
        self._artifact = artifact
        self._key = key
        self._directory = directory
        self._budget = budget
        self._given_up = False
        self._sink: Sink | None = None

    def run(self, store: BlockingStore) -> ObjectInfo:
        """All of it, in this thread."""
        self.make_directory()
        with store.read(self._key) as reading, self._open() as sink:
            for piece in reading:
                sink.feed(piece)
            sink.close()
            return reading.info

    async def stream(self, store: Store) -> ObjectInfo:
        """From a store elsewhere."""
        await in_thread(self.make_directory)
        info = await store.head(self._key)
        with self._open() as sink:
            async with _closing(store.get(self._key)) as stream:
                async for piece in stream:
                    await in_thread(partial(sink.feed, piece), on_cancel=sink.give_up)
            await in_thread(sink.close, on_cancel=sink.give_up)
        return info

    def give_up(self) -> None:
        """Make `run`, in another thread, end soon."""
        self._given_up = True
        if self._sink is not None:
            self._sink.give_up()

    def make_directory(self) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_fault(error, str(self._directory)) from error

    def _open(self) -> Sink:
        sink = self._receiver()
        # A mutable artifact was uploaded again since the message was written: its hash is of its first version.
        if self._artifact.hash and not self._artifact.mutable:
            sink = Verification(sink, self._artifact.hash)
        self._sink = sink
        if self._given_up:
            sink.give_up()
        return sink

    def _receiver(self) -> Sink:
        if self._artifact.unpack:
            return Unpacker(self._directory, self._budget)
        return Placement(self._directory / posixpath.basename(self._key), self._budget)


class _Look(NamedTuple):
    """What a directory looked like, and the clock of file times before it was looked at."""

    fingerprint: Fingerprint
    taken: int

    @property
    def final(self) -> bool:
        """Any later write shows: it cannot bear the time of one that was seen."""
        return self.fingerprint.newest < self.taken


def _look(directory: Path) -> _Look:
    taken = time.clock_gettime_ns(_FILE_CLOCK)
    return _Look(fingerprint(directory), taken)


class Upload:
    """Brings one artifact's directory back to its store, again and again, and only when it changed.

    A script may be writing meanwhile. `note` is told of what cannot be part of an archive.
    """

    def __init__(
        self, artifact: Artifact, store: Store, key: str, directory: Path, note: Note | None = None
    ) -> None:
        self._artifact = artifact
        self._store = store
        self._key = key
        self._directory = directory
        self._note = note or partial(_log.warning, "artifact %s: %s", artifact.label)
        self._known: _Look | None = None
        self._marked = False
        self._given_up = False
        self._busy = asyncio.Lock()

    async def mark(self) -> None:
        """Take what is there now for what the store has."""
        with _about(self._artifact):
            await in_thread(self.mark_now)

    def mark_now(self) -> None:
        """As `mark`, in this thread."""
        self._known = _look(self._directory)
        self._marked = True

    async def changed(self) -> bool:
        """Whether there is anything that the store may not have."""
        return self._differs(await self._take())

    async def upload(self) -> bool:
        """Put the artifact as it is now; False when the store has that already, or there is nothing.

        ArtifactInvalidError (a file cannot be read), StorageUnavailableError, UnauthorisedError.
        """
        async with self._busy:
            self._given_up = False
            with _about(self._artifact):
                if store := blocking(self._store):
                    return await in_thread(partial(self._run, store), on_cancel=self._give_up)
                return await self._stream(self._store)

    def upload_small(self) -> bool:
        """As `upload`, in this thread, where that is quickly done; False when it is not, or does not go well."""
        store = blocking(self._store)
        if store is None or self._busy.locked():
            return False
        try:
            look = _look(self._directory)
            if look.fingerprint.size > SMALL:
                return False
            self._put(store, look)
        except ExperimentError:
            return False
        return True

    def _run(self, store: BlockingStore) -> bool:
        """All of it, in this thread."""
        return self._put(store, _look(self._directory))

    def _put(self, store: BlockingStore, look: _Look) -> bool:
        source = self._source(look)
        if source is None or (self._is_first_and_empty(look) and not _there(store, self._key)):
            return False
        with closing(source):
            store.write(self._key, source)
        self._record(look)
        return True

    async def _stream(self, store: Store) -> bool:
        """To a store elsewhere."""
        look = await in_thread(partial(_look, self._directory))
        source = await in_thread(partial(self._source, look))
        if source is None or (self._is_first_and_empty(look) and not await _exists(store, self._key)):
            return False
        with closing(source):
            await store.put(self._key, self._carried(source))
        self._record(look)
        return True

    async def _carried(self, source: Iterator[bytes]) -> AsyncIterator[bytes]:
        while piece := await in_thread(partial(next, source, b""), on_cancel=self._give_up):
            yield piece

    def _source(self, look: _Look) -> Generator[bytes, None, None] | None:
        """What is to be put; None when there is nothing, or nothing new."""
        if not self._differs(look) or self._directory.is_symlink() or not self._directory.is_dir():
            return None
        if self._artifact.unpack:
            return self._until_given_up(pack(self._directory, Compression.of_name(self._key), note=self._note))
        name = single_file(self._directory, posixpath.basename(self._key))
        return None if name is None else self._until_given_up(read_file(self._directory, name))

    def _until_given_up(self, source: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
        with closing(source):
            for piece in source:
                if self._given_up:
                    raise GivenUpError
                yield piece

    def _give_up(self) -> None:
        self._given_up = True

    async def _take(self) -> _Look:
        with _about(self._artifact):
            return await in_thread(partial(_look, self._directory))

    def _differs(self, look: _Look) -> bool:
        known = self._known
        return known is None or look.fingerprint != known.fingerprint or not (self._marked or known.final)

    def _is_first_and_empty(self, look: _Look) -> bool:
        return self._known is None and not look.fingerprint.entries

    def _record(self, look: _Look) -> None:
        self._known, self._marked = look, False


def _there(store: BlockingStore, key: str) -> bool:
    try:
        store.info(key)
    except ObjectNotFoundError:
        return False
    return True


async def _exists(store: Store, key: str) -> bool:
    try:
        await store.head(key)
    except ObjectNotFoundError:
        return False
    return True
