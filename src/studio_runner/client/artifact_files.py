"""What an experiment's artifacts hold, and bringing one here."""

import asyncio
import posixpath
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio_runner.client.opening import Opener
from studio_runner.errors import (
    DiskExceededError,
    InvalidMessageError,
    NotFoundError,
    ObjectNotFoundError,
    StudioRunnerError,
)
from studio_runner.messages.artifact import Artifact
from studio_runner.messages.units import format_size
from studio_runner.reports.records import Record
from studio_runner.storage.base import ObjectInfo, Store
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.transfer import fetch

OUTPUT = "output"
METADATA = "_metadata"
_METADATA_FOLDER = "metadata"
"""Beside the artifacts; a document for every attempt is in it."""


class TooLargeError(StudioRunnerError):
    """What is stored is more than is to be unpacked."""


@dataclass(frozen=True)
class Stored:
    """An artifact as its store has it; `size` None: nothing is stored (yet), or nobody here can tell."""

    label: str
    address: str
    mutable: bool
    size: int | None


async def stored(record: Record, opener: Opener) -> list[Stored]:
    """Every artifact of an experiment, in the message's order."""
    looks = (_look(label, artifact, opener) for label, artifact in _artifacts(record).items())
    return list(await asyncio.gather(*looks))


async def fetch_artifact(
    record: Record, label: str, directory: Path, opener: Opener, most: int | None = None
) -> None:
    """Bring an artifact into `directory`; NotFoundError when there is none of that label, or nothing in it yet,
    TooLargeError when it has more than `most` bytes."""
    artifact = _artifact(record, label)
    store, key = opener.open(artifact)
    if label == METADATA and await _fetch_documents(store, key, directory):
        return
    try:
        info = await fetch(artifact, store, key, directory, DiskBudget(most))
    except DiskExceededError as error:
        raise TooLargeError(
            f"The artifact {label!r} of experiment {record.key} has more than {format_size(most or 0)}",
            hint=f"`studio-runner fetch {record.key} {label}` brings it to you, however much that is.",
        ) from error
    if info is None:
        raise NotFoundError(
            f"The artifact {label!r} of experiment {record.key} is not stored"
            + ("" if record.over else " yet: it is when the experiment is over, or at its next checkpoint")
        )


async def state_of(record: Record, label: str, opener: Opener) -> ObjectInfo | None:
    """What its store knows of an artifact; None when it is not there."""
    store, key = opener.open(_artifact(record, label))
    try:
        return await store.head(key)
    except ObjectNotFoundError:
        return None


async def read_document(record: Record, label: str, opener: Opener) -> bytes:
    """The content of an artifact that is one document; ObjectNotFoundError when it is not there."""
    with tempfile.TemporaryDirectory(prefix="studio-runner-") as place:
        directory = Path(place) / label
        try:
            await fetch_artifact(record, label, directory, opener)
        except NotFoundError as error:
            raise ObjectNotFoundError(str(error)) from error
        return await asyncio.to_thread(_only_document, directory)


@asynccontextmanager
async def stored_output(record: Record, opener: Opener, most: int | None = None) -> AsyncIterator[Path | None]:
    """The stored output as a file, or None when there is none; the file is gone when the context ends.
    TooLargeError when the artifact has more than `most` bytes."""
    with tempfile.TemporaryDirectory(prefix="studio-runner-") as place:
        directory = Path(place) / OUTPUT
        try:
            await fetch_artifact(record, OUTPUT, directory, opener, most)
        except NotFoundError:
            yield None
            return
        path = directory / OUTPUT
        yield path if await asyncio.to_thread(path.is_file) else None


def _artifacts(record: Record) -> dict[str, Artifact]:
    found = record.document.get("artifacts")
    return {label: _parse(label, raw) for label, raw in found.items()} if isinstance(found, Mapping) else {}


def _artifact(record: Record, label: str) -> Artifact:
    known = _artifacts(record)
    if label not in known:
        raise NotFoundError(
            f"Experiment {record.key} has no artifact {label!r}", hint=f"It has: {', '.join(known) or 'none'}."
        )
    return known[label]


def _parse(label: str, raw: Any) -> Artifact:
    try:
        return Artifact.model_validate({**raw, "label": label})
    except (TypeError, ValueError) as error:
        raise InvalidMessageError(
            f"$.artifacts.{label}", "what is no artifact", "an object with an address"
        ) from error


async def _look(label: str, artifact: Artifact, opener: Opener) -> Stored:
    try:
        store, key = opener.open(artifact)
        size: int | None = (await store.head(key)).size
    except StudioRunnerError:  # not there, or in a store that this machine cannot ask
        size = None
    return Stored(label, artifact.address, artifact.mutable, size)


async def _fetch_documents(store: Store, key: str, directory: Path) -> bool:
    """The documents that a runner puts beside the artifact `key`, if there are any."""
    prefix = posixpath.join(posixpath.dirname(key), _METADATA_FOLDER, "")
    keys = [found.key async for found in store.list(prefix) if "/" not in found.key.removeprefix(prefix)]
    for one in keys:
        content = b"".join([piece async for piece in store.get(one)])
        await asyncio.to_thread(_write, directory / posixpath.basename(one), content)
    return bool(keys)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _only_document(directory: Path) -> bytes:
    path = next((path for path in sorted(directory.rglob("*")) if path.is_file() and not path.is_symlink()), None)
    if path is None:
        raise ObjectNotFoundError(f"no document in {directory.name}")
    return path.read_bytes()
