"""The databases of senders, as stores of this runner open them."""

from collections.abc import Mapping
from pathlib import Path

from studio_runner.messages.request import StoreConfig
from studio_runner.reports.databases import Databases
from studio_runner.reports.documents import Documents, StoreDocuments
from studio_runner.storage.access import access_of_section, below
from studio_runner.storage.base import Precondition
from studio_runner.storage.registry import Stores

_ANY = "experiments/key"
"""A location of the registry's is that of an object; all objects of a bucket are in one store."""

_OTHERS = frozenset({"firebase", "http", "https", "postgres"})
"""Kinds of databases that only existing clients know."""


def databases(root: Path, stores: Stores) -> Databases:
    """This runner's records are in `root`; the senders' are in `stores`."""

    def opened(section: StoreConfig, variables: Mapping[str, str]) -> Documents | None:
        if not section.type or section.type.lower() in _OTHERS:
            return None
        place, access = access_of_section(section, variables)
        store, _ = stores.open(below(place, _ANY), access)
        return StoreDocuments(store, Precondition)

    return Databases(root, opened, stores.reach)
