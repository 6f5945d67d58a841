"""The storage seam for a store that lives on this machine: the same verbs, called from a thread.

A transfer to or from such a store is one piece of blocking work instead of a hop between threads for every piece.
"""

from collections.abc import Iterable
from types import TracebackType
from typing import Protocol, Self

from studio_runner.errors import ObjectNotFoundError
from studio_runner.storage.base import ObjectInfo, Precondition, Store


class Reading(Protocol):
    """An object that is open: its pieces, in order, until the context ends."""

    @property
    def info(self) -> ObjectInfo: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> bytes: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class BlockingStore(Protocol):
    """Errors are those of `Store`."""

    def info(self, key: str) -> ObjectInfo: ...
    def read(self, key: str) -> Reading: ...
    def remove(self, key: str) -> None: ...
    def write(self, key: str, pieces: Iterable[bytes], *, when: Precondition | None = None) -> ObjectInfo: ...


def blocking(store: Store) -> BlockingStore | None:
    """The store as one to be called from a thread, where it is on this machine. (`isinstance` with a protocol takes
    longer than some of the calls.)"""
    here: BlockingStore | None = getattr(store, "here", None)
    return here


def has(store: BlockingStore, key: str) -> bool:
    """Whether there is an object of that key."""
    try:
        store.info(key)
    except ObjectNotFoundError:
        return False
    return True
