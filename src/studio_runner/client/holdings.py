"""What a person has: experiment records, and the artifacts they tell of."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from studio_runner.client.opening import OwnOpener
from studio_runner.client.stores import Stores, directory_of, kind_of
from studio_runner.config.settings import StorageSettings
from studio_runner.config.studioml import StudioConfig
from studio_runner.reports.documents import DirectoryDocuments, Documents, Edit
from studio_runner.reports.records import Records

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Holdings:
    """Records and artifacts, with what opens them. `config` is this person's StudioML configuration."""

    config: StudioConfig
    stores: Stores
    records: Records
    opener: OwnOpener


@asynccontextmanager
async def opened_holdings(
    config: StudioConfig, stores: Stores, settings: StorageSettings
) -> AsyncIterator[Holdings]:
    """The holdings that the configuration speaks of, and those that runners of this machine know."""
    opener = OwnOpener({**config.document, **stores.sections}, settings)
    try:
        records = Records(_documents(stores, opener))
        yield Holdings(config, stores, records, opener)
    finally:
        await opener.close()


def _documents(stores: Stores, opener: OwnOpener) -> Documents:
    own = DirectoryDocuments(stores.own)
    match kind_of(stores.database):
        case "s3" | "gs":
            return JoinedDocuments(_in_bucket(stores, opener), own)
        case "local" if (place := directory_of(stores.database)) != stores.own:
            return JoinedDocuments(_in_directory(place), own)
        case _:  # this machine's, or a kind of database that only other clients know
            return own


def _in_directory(place: "Path") -> Documents:
    return DirectoryDocuments(place)


def _in_bucket(stores: Stores, opener: OwnOpener) -> Documents:
    from studio_runner.reports.documents import StoreDocuments  # noqa: PLC0415
    from studio_runner.storage.base import Precondition  # noqa: PLC0415

    return StoreDocuments(opener.open_section(stores.database), Precondition)


class JoinedDocuments:
    """Two places as one: what the first one has counts, and what neither has is made there."""

    def __init__(self, first: Documents, second: Documents) -> None:
        self._first, self._second = first, second

    async def read(self, key: str) -> bytes | None:
        found = await self._first.read(key)
        return await self._second.read(key) if found is None else found

    async def version(self, key: str) -> str | None:
        found = await self._first.version(key)
        return await self._second.version(key) if found is None else found

    async def change(self, key: str, edit: Edit) -> None:
        here = await self._first.version(key) is not None or await self._second.version(key) is None
        await (self._first if here else self._second).change(key, edit)

    async def all(self, prefix: str) -> Sequence[tuple[str, bytes]]:
        first, second = await asyncio.gather(self._first.all(prefix), self._second.all(prefix))
        return list({**dict(second), **dict(first)}.items())
