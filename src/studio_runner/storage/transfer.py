"""Artifacts on their way to an experiment and back, all of one experiment at once.

With a store on this machine a whole transfer is one piece of work in one thread; with any other the network and
the packing or unpacking go on side by side. Either way nothing holds a whole archive that is not small, and a
cancelled transfer leaves no part of an object.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from studio_runner.errors import ExperimentError, ObjectNotFoundError
from studio_runner.messages.artifact import Artifact
from studio_runner.storage.archive import pack_file
from studio_runner.storage.base import Store
from studio_runner.storage.blocking import BlockingStore, blocking, has
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.cache import ArtifactCache
from studio_runner.storage.compression import Compression
from studio_runner.storage.fetch import Fetching, fetch
from studio_runner.storage.threads import in_thread
from studio_runner.storage.upload import SMALL, Upload, one_piece

__all__ = ["Fetch", "Put", "Removal", "Upload", "fetch", "fetch_all", "put_document", "upload_all"]


T = TypeVar("T")

SIDE_BY_SIDE = 32
"""Artifacts of one experiment that are on their way at a time."""


class Fetch(NamedTuple):
    """One artifact to be brought into `directory`; `upload` is marked when something came."""

    artifact: Artifact
    store: Store
    key: str
    directory: Path
    upload: Upload | None


class Put(NamedTuple):
    """A small object to be written."""

    store: Store
    key: str
    body: bytes


class Removal(NamedTuple):
    """An object that must not be there."""

    store: Store
    key: str


async def fetch_all(
    fetches: Sequence[Fetch],
    removals: Sequence[Removal],
    budget: DiskBudget,
    cache: ArtifactCache | None = None,
) -> None:
    """Bring every artifact here and remove what must not be there, side by side; the first error ends the others.

    Errors are those of `fetch`, in an ExceptionGroup.
    """
    large, left = await in_thread(partial(_begin_small, fetches, removals, budget))
    places = asyncio.Semaphore(SIDE_BY_SIDE)
    async with asyncio.TaskGroup() as group:
        for removal in left:
            removing = _placed(places, removal.store.delete(removal.key))
            group.create_task(removing, name=f"remove {removal.key}")
        for one in large:
            group.create_task(_placed(places, _fetch_one(one, budget, cache)), name=f"fetch {one.artifact.label}")


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
    work = Fetching(one.artifact, one.key, one.directory, budget)
    try:
        if one.artifact.mutable and not has(store, one.key):
            work.make_directory()
            return True
        info = store.info(one.key)
        if info.size > SMALL:
            return False
        work.run(store)
    except (ExperimentError, ObjectNotFoundError):
        return False
    if one.upload:
        one.upload.saw(info)
        one.upload.mark_now()
    return True


async def _fetch_one(one: Fetch, budget: DiskBudget, cache: ArtifactCache | None) -> None:
    info = await fetch(one.artifact, one.store, one.key, one.directory, budget, cache=cache)
    if one.upload:
        one.upload.saw(info)
        if info:
            await one.upload.mark()


async def upload_all(uploads: Sequence[Upload], puts: Sequence[Put]) -> None:
    """Bring back what changed and write the objects, side by side; all are tried before the first error is raised.

    Errors are those of `Upload.upload`.
    """
    large, left = await in_thread(partial(_upload_small, uploads, puts))
    rest = [*(one.upload() for one in large), *(one.store.put(one.key, one_piece(one.body)) for one in left)]
    places = asyncio.Semaphore(SIDE_BY_SIDE)
    for result in await asyncio.gather(*(_placed(places, one) for one in rest), return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def _placed(places: asyncio.Semaphore, work: Coroutine[Any, Any, T]) -> T:
    """`work`, when its turn comes."""
    try:
        async with places:
            return await work
    finally:
        work.close()  # its turn may never have come


def _upload_small(uploads: Sequence[Upload], puts: Sequence[Put]) -> tuple[list[Upload], list[Put]]:
    """Do what is small, in this thread; returns the rest, what is in trouble included."""
    large = [one for one in uploads if not one.upload_small()]
    return large, [one for one in puts if not ((store := blocking(one.store)) and _written(store, one))]


def _written(store: BlockingStore, put: Put) -> bool:
    try:
        store.write(put.key, [put.body])
    except ExperimentError:
        return False
    return True


async def put_document(artifact: Artifact, store: Store, key: str, name: str, body: bytes) -> None:
    """Store an artifact that is one document: bare, or as the file `name` in an archive where the artifact is to be
    unpacked. Errors are those of `Store.put`."""
    content = pack_file(name, body, Compression.of_name(key)) if artifact.unpack else body
    await store.put(key, one_piece(content))
