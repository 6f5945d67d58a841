"""Which store an address belongs to."""

import posixpath
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from studio_runner.errors import ArtifactInvalidError
from studio_runner.messages.artifact import Location
from studio_runner.storage.base import Store


class Address(NamedTuple):
    """One object: what names its store, how to open that, and the object's key in it."""

    store: tuple[str, ...]
    open: Callable[[], Store]
    key: str


def _files(location: Location) -> Address:
    from studio_runner.storage.files import FileStore  # noqa: PLC0415

    directory, name = posixpath.split(location.key)
    if not directory.startswith("/") or name in ("", ".", "..") or ".." in directory.split("/"):
        raise ArtifactInvalidError(
            f"file://{location.key} names no file", hint="a file address is file:///ABSOLUTE/PATH without `..`"
        )
    return Address(("file", directory), lambda: FileStore(Path(directory)), name)


_FACTORIES: dict[str, Callable[[Location], Address]] = {"file": _files}


class Stores:
    """Opens stores, each once: the artifacts of an experiment mostly lie side by side."""

    def __init__(self) -> None:
        self._opened: dict[tuple[str, ...], Store] = {}

    def open(self, location: Location) -> tuple[Store, str]:
        """The store that holds `location`, and the object's key there. ArtifactInvalidError when there is none."""
        factory = _FACTORIES.get(location.scheme)
        if factory is None:
            known = ", ".join(f"{scheme}://" for scheme in _FACTORIES)
            raise ArtifactInvalidError(
                f"{location.scheme}:// addresses cannot be read or written", hint=f"stores there are: {known}"
            )
        address = factory(location)
        if address.store not in self._opened:
            self._opened[address.store] = address.open()
        return self._opened[address.store], address.key


def open_store(location: Location) -> tuple[Store, str]:
    """As `Stores.open`, for a single object."""
    return Stores().open(location)
