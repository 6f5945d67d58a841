"""One artifact on its way to an experiment."""

import posixpath
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from studio_runner.errors import ArtifactMissingError, ObjectNotFoundError
from studio_runner.messages.artifact import Artifact
from studio_runner.storage.about import about
from studio_runner.storage.archive import Tap, Unpacker
from studio_runner.storage.base import ObjectInfo, Remote, Store, remote
from studio_runner.storage.blocking import BlockingStore, blocking
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.cache import ArtifactCache, Claim, kept_name
from studio_runner.storage.faults import disk_fault
from studio_runner.storage.flow import taken_in
from studio_runner.storage.kept import Kept
from studio_runner.storage.ranges import PART, WINDOW, Ranges, closing, in_parts, pour, whole
from studio_runner.storage.receive import Digest, Placement, Sink, verify
from studio_runner.storage.tar import END
from studio_runner.storage.threads import in_thread

Receive = Callable[[Path, DiskBudget], Sink]
"""Makes what takes an object's bytes and puts them into the directory."""


async def fetch(  # noqa: PLR0913
    artifact: Artifact,
    store: Store,
    key: str,
    directory: Path,
    budget: DiskBudget,
    *,
    cache: ArtifactCache | None = None,
    receive: Receive | None = None,
) -> ObjectInfo | None:
    """Bring the object `key` of `store` into `directory`, which is made; None when it is not there and need not be.

    What does not change and is stored elsewhere is kept in `cache`. `receive` decides what becomes of the bytes;
    None: what the artifact says.

    ArtifactMissingError, ArtifactInvalidError, DiskExceededError, StorageUnavailableError, UnauthorisedError.
    """
    work = Fetching(artifact, key, directory, budget, receive)
    with about(artifact):
        try:
            if local := blocking(store):
                return await in_thread(partial(work.run, local), on_cancel=work.give_up)
            if cache is None or artifact.mutable:
                return await work.stream(store)
            return await work.stream_once(store, cache)
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

    def __init__(
        self, artifact: Artifact, key: str, directory: Path, budget: DiskBudget, receive: Receive | None = None
    ) -> None:
        self._receive = receive
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

    async def stream(self, store: Store, claim: Claim | None = None) -> ObjectInfo:
        """From a store elsewhere; `claim`: and into the cache."""
        there = remote(store)
        async with there.open(self._key) if there else _opened(store, self._key) as (info, stream):
            take = partial(self._keep, claim, info) if claim else self.take
            if not 0 <= info.size <= PART:  # below 0: nobody said how much it is
                await self._flow(there, info, stream, take)
                return info
            body = await whole(stream)
        await in_thread(partial(take, body), on_cancel=self.give_up)
        return info

    async def stream_once(self, store: Store, cache: ArtifactCache) -> ObjectInfo:
        """From the cache, or into it; either way the store was asked with the experiment's own credentials."""
        name = kept_name(self._artifact)
        while True:
            if info := await self._from(cache, name, store):
                return info
            async with cache.claim(name) as claim:
                if claim.waited:
                    continue  # whoever had it has fetched it, most likely
                cache.count(cache.misses, name)
                return await self.stream(store, claim)

    async def _from(self, cache: ArtifactCache, name: str, store: Store) -> ObjectInfo | None:
        kept = await in_thread(partial(cache.find, name))
        if kept is None:
            return None
        with kept:
            info = await store.head(self._key)
            if (info.etag, info.size) != (kept.facts.etag, kept.facts.size):
                return None
            verify(kept.facts.sha256, self._artifact.hash)
            await in_thread(partial(self._take_kept, kept), on_cancel=self.give_up)
        cache.count(cache.hits, name)
        return info

    async def _flow(
        self, there: Remote | None, info: ObjectInfo, stream: AsyncIterator[bytes], take: Callable[..., None]
    ) -> None:
        produce = Ranges(there, info).pour if there and in_parts(info) else pour
        await taken_in(partial(produce, stream), take, self.give_up, WINDOW)

    def take(self, pieces: Iterable[bytes]) -> None:
        """The object's bytes, in this thread."""
        self.make_directory()
        # A mutable artifact was uploaded again since the message was written: its hash is of its first version.
        expected = None if self._artifact.mutable else self._artifact.hash
        sink = self._receiver(None)
        self._feed(Digest(sink, expected) if expected else sink, pieces)

    def _take_kept(self, kept: Kept) -> None:
        """As `take`, of what was verified when it came."""
        self.make_directory()
        self._feed(self._receiver(None), kept)

    def _keep(self, claim: Claim, info: ObjectInfo, pieces: Iterable[bytes]) -> None:
        """As `take`, and into the cache."""
        self.make_directory()
        with claim.copy(info) as copy:
            sink = Digest(self._receiver(copy.write), self._artifact.hash)
            self._feed(sink, claim.watched(pieces))
            if self._artifact.unpack:
                copy.write(END)  # compressed archives may lack it
            claim.publish(copy, info, sink.sha256)

    def _feed(self, sink: Sink, pieces: Iterable[bytes]) -> None:
        self._sink = sink
        if self._given_up:
            sink.give_up()
        with sink:
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

    def _receiver(self, tap: Tap | None) -> Sink:
        if self._receive is not None:
            return self._receive(self._directory, self._budget)
        if self._artifact.unpack:
            return Unpacker(self._directory, self._budget, tap)
        return Placement(self._directory / posixpath.basename(self._key), self._budget, tap)


@asynccontextmanager
async def _opened(store: Store, key: str) -> AsyncIterator[tuple[ObjectInfo, AsyncIterator[bytes]]]:
    """An object of a store that offers nothing but the seam."""
    info = await store.head(key)
    stream = store.get(key)
    async with closing(stream):
        yield info, stream
