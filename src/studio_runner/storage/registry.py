"""Which store an address belongs to."""

import posixpath
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from studio_runner.config.reach import ANYWHERE, Reach
from studio_runner.config.settings import StorageSettings
from studio_runner.errors import ArtifactInvalidError
from studio_runner.messages.artifact import Location
from studio_runner.storage.access import NOBODY, Access
from studio_runner.storage.base import Store

if TYPE_CHECKING:
    from studio_runner.storage.objects.opening import Opener

_KEPT = 256
"""Stores that are kept open at a time. One is small: its connections are in a pool that all of them share."""


class Address(NamedTuple):
    """One object: what tells its store from others, how to open that, and the object's key in it."""

    store: tuple[object, ...]
    open: Callable[[], Store]
    key: str


class Stores:
    """Opens stores, each once, and may be shared by everything in one event loop; `close` it there. `reach` says
    which files it opens."""

    def __init__(self, settings: StorageSettings | None = None, reach: Reach = ANYWHERE) -> None:
        self._settings = settings or StorageSettings()
        self.reach = reach
        self._opened: OrderedDict[tuple[object, ...], Store] = OrderedDict()
        self._opener: Opener | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def open(self, location: Location, access: Access = NOBODY) -> tuple[Store, str]:
        """The store that holds `location`, and the object's key there. ArtifactInvalidError when there is none."""
        factory = _FACTORIES.get(location.scheme)
        if factory is None:
            known = ", ".join(f"{scheme}://" for scheme in _FACTORIES)
            raise ArtifactInvalidError(
                f"{location.scheme}:// addresses cannot be read or written", hint=f"stores there are: {known}"
            )
        address = factory(self, location, access)
        store = self._opened.get(address.store)
        if store is None:
            store = self._opened[address.store] = address.open()
            if len(self._opened) > _KEPT:
                self._opened.popitem(last=False)
        self._opened.move_to_end(address.store)
        return store, address.key

    async def close(self) -> None:
        """End the connections. Nothing is under way any more; a store that is used again opens new ones."""
        self._opened.clear()
        if self._opener is not None:
            await self._opener.close()

    @property
    def remote(self) -> "Opener":
        """Opens what is across the network."""
        if self._opener is None:
            from studio_runner.storage.objects.opening import Opener  # noqa: PLC0415

            self._opener = Opener(self._settings)
        return self._opener


def _files(stores: Stores, location: Location, access: Access) -> Address:  # noqa: ARG001  as the others
    from studio_runner.storage.files import FileStore  # noqa: PLC0415

    directory, name = posixpath.split(location.key)
    if not directory.startswith("/") or name in ("", ".", "..") or ".." in directory.split("/"):
        raise ArtifactInvalidError(
            f"file://{location.key} names no file", hint="a file address is file:///ABSOLUTE/PATH without `..`"
        )
    if not stores.reach.allows(directory):
        raise ArtifactInvalidError(
            f"file://{location.key} is in no directory of this machine that a message may name",
            hint="--storage-directories of the runner says which ones it may, besides its store",
        )
    return Address(("file", directory), lambda: FileStore(Path(directory)), name)


def _objects(stores: Stores, location: Location, access: Access) -> Address:
    name = (location.scheme, location.endpoint.lower(), location.bucket, access.identity)
    return Address(name, lambda: stores.remote.bucket(location, access), location.key)


def _web(stores: Stores, location: Location, access: Access) -> Address:
    name = (location.scheme, location.endpoint.lower(), access.identity)
    return Address(name, lambda: stores.remote.web(location, access), location.key)


_FACTORIES: dict[str, Callable[[Stores, Location, Access], Address]] = {
    "file": _files,
    "s3": _objects,
    "gs": _objects,
    "http": _web,
    "https": _web,
}


def open_store(location: Location) -> tuple[Store, str]:
    """As `Stores.open`, for a single object on this machine."""
    return Stores().open(location)
