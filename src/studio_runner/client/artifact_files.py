"""What an experiment's artifacts hold, and bringing one here."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio_runner.errors import InvalidMessageError, NotFoundError, StudioRunnerError
from studio_runner.messages.artifact import Artifact
from studio_runner.reports.records import Record
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.registry import open_store
from studio_runner.storage.transfer import fetch

OUTPUT = "output"


@dataclass(frozen=True)
class Stored:
    """An artifact as its store has it; `size` None: nothing is stored (yet), or nobody here can tell."""

    label: str
    address: str
    mutable: bool
    size: int | None


async def stored(record: Record) -> list[Stored]:
    """Every artifact of an experiment, in the message's order."""
    return [await _look(label, artifact) for label, artifact in _artifacts(record).items()]


async def fetch_artifact(record: Record, label: str, directory: Path) -> None:
    """Bring an artifact into `directory`; NotFoundError when there is none of that label, or nothing in it yet."""
    known = _artifacts(record)
    if label not in known:
        raise NotFoundError(
            f"Experiment {record.key} has no artifact {label!r}", hint=f"It has: {', '.join(known) or 'none'}."
        )
    store, key = open_store(known[label].location)
    if await fetch(known[label], store, key, directory, DiskBudget(None)) is None:
        raise NotFoundError(
            f"The artifact {label!r} of experiment {record.key} is not stored"
            + ("" if record.over else " yet: it is when the experiment is over, or at its next checkpoint")
        )


@asynccontextmanager
async def stored_output(record: Record) -> AsyncIterator[Path | None]:
    """The stored output as a file, or None when there is none; the file is gone when the context ends."""
    with tempfile.TemporaryDirectory(prefix="studio-runner-") as place:
        directory = Path(place) / OUTPUT
        try:
            await fetch_artifact(record, OUTPUT, directory)
        except NotFoundError:
            yield None
            return
        path = directory / OUTPUT
        yield path if await asyncio.to_thread(path.is_file) else None


def _artifacts(record: Record) -> dict[str, Artifact]:
    found = record.document.get("artifacts")
    return {label: _parse(label, raw) for label, raw in found.items()} if isinstance(found, Mapping) else {}


def _parse(label: str, raw: Any) -> Artifact:
    try:
        return Artifact.model_validate({**raw, "label": label})
    except (TypeError, ValueError) as error:
        raise InvalidMessageError(
            f"$.artifacts.{label}", "what is no artifact", "an object with an address"
        ) from error


async def _look(label: str, artifact: Artifact) -> Stored:
    try:
        store, key = open_store(artifact.location)
        size: int | None = (await store.head(key)).size
    except StudioRunnerError:  # not there, or in a store that this machine cannot ask
        size = None
    return Stored(label, artifact.address, artifact.mutable, size)
