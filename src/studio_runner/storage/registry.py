"""Which store an address belongs to."""

import posixpath
from collections.abc import Callable
from pathlib import Path

from studio_runner.errors import ArtifactInvalidError
from studio_runner.messages.artifact import Location
from studio_runner.storage.base import Store


def _files(location: Location) -> tuple[Store, str]:
    from studio_runner.storage.files import FileStore  # noqa: PLC0415

    directory, name = posixpath.split(location.key)
    if not directory.startswith("/") or name in ("", ".", "..") or ".." in directory.split("/"):
        raise ArtifactInvalidError(
            f"file://{location.key} names no file", hint="a file address is file:///ABSOLUTE/PATH without `..`"
        )
    return FileStore(Path(directory)), name


_FACTORIES: dict[str, Callable[[Location], tuple[Store, str]]] = {"file": _files}


def open_store(location: Location) -> tuple[Store, str]:
    """The store that holds `location`, and the object's key there. ArtifactInvalidError when there is none."""
    factory = _FACTORIES.get(location.scheme)
    if factory is None:
        known = ", ".join(f"{scheme}://" for scheme in _FACTORIES)
        raise ArtifactInvalidError(
            f"{location.scheme}:// addresses cannot be read or written", hint=f"stores there are: {known}"
        )
    return factory(location)
