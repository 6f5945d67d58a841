"""The reporting seam: what happens to experiments, told to whoever listens."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from studio_runner.errors import Reason, StudioRunnerError
from studio_runner.messages.request import Config
from studio_runner.process.hidden import Cover

log = logging.getLogger(__name__)

MOST_TOLD = 500
"""Characters of a text that a message brought, where it is kept and told."""


@dataclass(frozen=True)
class Subject:
    """The attempt that an event is about.

    `experiment` is the message's `experiment` object as sent (credentials and all: not for display), `number`
    counts from 1, `directory` is where the attempt runs (None: it never got so far), `runner` the id of the runner
    and `config` the message's configuration (None: it could not be read).
    """

    key: str
    experiment: Mapping[str, Any]
    queue: str
    number: int
    host: str
    directory: Path | None
    runner: str = ""
    config: Config | None = field(default=None, repr=False)

    @property
    def project(self) -> str:
        """As it is told to others: a message can say any, and that very long."""
        return str(self.experiment.get("project") or "")[:MOST_TOLD]


@dataclass(frozen=True)
class Reserved:
    """An attempt's share of the machine: whole cores, bytes of memory and disk, and its GPUs, UUID and name each.
    `gpu_fraction`: it has one part in this many of each GPU."""

    cores: int
    memory: int
    disk: int
    gpus: Sequence[tuple[str, str]] = ()
    gpu_fraction: int = 1


@dataclass(frozen=True)
class Started:
    """The attempt has its directory and its share of the machine."""

    subject: Subject
    at: float
    reserved: Reserved | None = None


@dataclass(frozen=True)
class StageEntered:
    """The attempt goes on to another stage (`prepare`, `run`, `finish`)."""

    subject: Subject
    at: float
    stage: str


@dataclass(frozen=True)
class Checkpointed:
    """Mutable artifacts were uploaded while the script runs; `cover` is of their output."""

    subject: Subject
    at: float
    cover: Cover | None = None


@dataclass(frozen=True)
class Ended:
    """The attempt is over. `sentence` has no secrets; `final` is False when the experiment will be tried again;
    `started` is when it had its directory, `cover` is of its output (None: it never got so far)."""

    subject: Subject
    at: float
    reason: Reason
    sentence: str
    exit_code: int | None
    signal: int | None
    final: bool
    peak_memory: int
    cpu_seconds: float
    started: float | None = None
    cover: Cover | None = None


Event = Started | StageEntered | Checkpointed | Ended


class Reporter(Protocol):
    """Takes events one after the other; what it raises is logged and forgotten."""

    async def report(self, event: Event) -> None: ...


@runtime_checkable
class LineReporter(Reporter, Protocol):
    """A reporter that takes what scripts print as well, as far as it is JSON."""

    def printed(self, subject: Subject, line: bytes) -> None:
        """One line that looks like an object or array. The output waits meanwhile: to return at once."""
        ...


class Reports:
    """Tells every reporter, in order, each with a time limit."""

    def __init__(self, reporters: Sequence[Reporter], patience: float = 40.0) -> None:
        self._reporters = tuple(reporters)
        self._patience = patience

    def listener(self, subject: Subject) -> Callable[[bytes], None] | None:
        """Who takes the lines of JSON that the attempt prints; None: nobody does."""
        reporters = [reporter for reporter in self._reporters if isinstance(reporter, LineReporter)]

        def tell(line: bytes) -> None:
            for reporter in reporters:
                reporter.printed(subject, line)

        return tell if reporters else None

    async def report(self, event: Event) -> None:
        """Never raises for a reporter's sake."""
        for reporter in self._reporters:
            try:
                async with asyncio.timeout(self._patience):
                    await reporter.report(event)
            except Exception as error:  # whatever is wrong with a reporter costs no experiment
                expected = isinstance(error, StudioRunnerError | OSError | TimeoutError)
                log.warning(
                    "%s could not report %s of experiment %s: %s",
                    type(reporter).__name__,
                    type(event).__name__,
                    event.subject.key,
                    error,
                    exc_info=not expected,
                )
