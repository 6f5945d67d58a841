"""One artifact on its way to an experiment."""

import posixpath
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from studio_runner.errors import ArtifactMissingError, ObjectNotFoundError
from studio_runner.messages.artifact import Artifact
from studio_runner.storage.about import about
from studio_runner.storage.archive import Unpacker
from studio_runner.storage.base import ObjectInfo, Remote, Store, remote
from studio_runner.storage.blocking import BlockingStore, blocking
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.faults import disk_fault
from studio_runner.storage.flow import taken_in
from studio_runner.storage.ranges import PART, WINDOW, Ranges, closing, in_parts, pour, whole
from studio_runner.storage.receive import Placement, Sink, Verification
from studio_runner.storage.threads import in_thread


async def fetch(
    artifact: Artifact, store: Store, key: str, directory: Path, budget: DiskBudget
) -> ObjectInfo | None:
    """Bring the object `key` of `store` into `directory`, which is made; None when it is not there and need not be.

    ArtifactMissingError, ArtifactInvalidError, DiskExceededError, StorageUnavailableError, UnauthorisedError.
    """
    work = Fetching(artifact, key, directory, budget)
    with about(artifact):
        try:
            if local := blocking(store):
                return await in_thread(partial(work.run, local), on_cancel=work.give_up)
            return await work.stream(store)
        except ObjectNotFoundError as error:
            if artifact.mutable:
                await in_thread(work.make_directory)
                return None
            raise ArtifactMissingError(
                f"artifact {artifact.label} is not at {artifact.address}",
                hint="upload it, or make it mutable if it may be missing",
            ) from error


class Fetching:
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
        with store.read(self._key) as reading:
            self.take(reading)
            return reading.info

    async def stream(self, store: Store) -> ObjectInfo:
        """From a store elsewhere."""
        there = remote(store)
        async with there.open(self._key) if there else _opened(store, self._key) as (info, stream):
            if info.size > PART:
                await self._flow(there, info, stream)
                return info
            body = await whole(stream)
        await in_thread(partial(self.take, body), on_cancel=self.give_up)
        return info

    async def _flow(self, there: Remote | None, info: ObjectInfo, stream: AsyncIterator[bytes]) -> None:
        produce = Ranges(there, info).pour if there and in_parts(info) else pour
        await taken_in(partial(produce, stream), self.take, self.give_up, WINDOW)

    def take(self, pieces: Iterable[bytes]) -> None:
        """The object's bytes, in this thread."""
        self.make_directory()
        with self._open() as sink:
            for piece in pieces:
                sink.feed(piece)
            sink.close()

    def give_up(self) -> None:
        """Make `take`, in another thread, end soon."""
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


@asynccontextmanager
async def _opened(store: Store, key: str) -> AsyncIterator[tuple[ObjectInfo, AsyncIterator[bytes]]]:
    """An object of a store that offers nothing but the seam."""
    info = await store.head(key)
    stream = store.get(key)
    async with closing(stream):
        yield info, stream
