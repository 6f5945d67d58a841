"""Where the experiments of a run are queued and stored: on this machine's disk, or in RabbitMQ and S3."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from faults.experiment import Addresses
from servers.proxy import Proxy


class Server(Protocol):
    """A server of the cluster that the storm may strike."""

    def start(self) -> None: ...
    def stop(self, *, hard: bool = False) -> None: ...


class Objects(Protocol):
    """What is stored, seen from outside the storm. Errors are OSError: the store may be down."""

    def versions(self) -> Mapping[str, str]:
        """Every object by name, with something that changes whenever it does. Artifacts are
        `experiments/KEY/LABEL.tar`, records `db/experiments/KEY`."""
        ...

    def read(self, name: str) -> bytes:
        """KeyError when there is no such object."""
        ...

    def write(self, name: str, content: bytes) -> None: ...


class Site(AbstractContextManager["Site"], Protocol):
    """One of the two, up while entered."""

    @property
    def queues(self) -> Sequence[str]: ...
    @property
    def objects(self) -> Objects: ...
    @property
    def servers(self) -> Mapping[str, Server]:
        """`broker` and `store`, where they are servers."""
        ...

    @property
    def links(self) -> Mapping[str, Sequence[Proxy]]:
        """Ways between runners and servers, by name; those of one name misbehave together."""
        ...

    def addresses(self) -> Addresses: ...
    def options(self, runner: int) -> Sequence[str]:
        """How runner number `runner` finds queues and stores."""
        ...

    def publish(self, queue: str, body: bytes) -> None:
        """OSError when the message may not have arrived."""
        ...

    def remaining(self) -> Iterator[str]:
        """What is left in queues, a line each."""
        ...
