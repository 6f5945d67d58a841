"""The experiment records as lists are made of them: a line each, the newest first, read again only when changed.

`Records.list` reads every record there ever was; somebody who leaves the dashboard open would make the runner do
that every few seconds, for ever more records.
"""

import asyncio
import heapq
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from studio_runner.client.view import script, status
from studio_runner.messages.jsontext import loads
from studio_runner.messages.secrets import mask_urls
from studio_runner.process.regular import open_regular
from studio_runner.reports.base import MOST_TOLD
from studio_runner.reports.records import Record

MOST = 5000
"""Records in the lists, those that changed last."""
SHARE = 20
"""Looking takes one part in so many of the time."""
SHORTEST = 0.2
"""Seconds for which a look is good at least."""
LONGEST_RECORD = 16 << 20
LATEST = 1e11
"""Unix time in the year 5138."""


@dataclass(frozen=True)
class ExperimentLine:
    """One experiment in a list. Times are Unix times; `status` is waiting, running, stopping, finished or stopped;
    `reason` and `sentence` say how the last attempt ended."""

    key: str
    status: str
    stage: str | None
    reason: str | None
    sentence: str | None
    queue: str | None
    project: str | None
    host: str | None
    attempt: int | None
    script: str
    time_added: float | None
    time_started: float | None
    time_finished: float | None


class _Version(NamedTuple):
    """Tells whether a file is still the one that was read."""

    changed: int
    inode: int
    size: int


class Catalogue:
    """Lines of the records in `directory`; one look at a time, shared by all who ask meanwhile."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, tuple[_Version, ExperimentLine | None]] = {}
        self._lines: tuple[ExperimentLine, ...] = ()
        self._due = 0.0
        self._looking = asyncio.Lock()

    async def lines(self) -> tuple[ExperimentLine, ...]:
        """Newest first, by the time of submission."""
        async with self._looking:
            started = time.monotonic()
            if started >= self._due:
                self._lines = await asyncio.to_thread(self._look)
                ended = time.monotonic()
                self._due = ended + max(SHORTEST, SHARE * (ended - started))
        return self._lines

    def _look(self) -> tuple[ExperimentLine, ...]:
        newest = heapq.nlargest(MOST, self._found())
        self._known = {name: self._line(name, version) for version, name in newest}
        lines = [line for _, line in self._known.values() if line]
        return tuple(sorted(lines, key=lambda line: line.time_added or 0.0, reverse=True))

    def _found(self) -> Iterator[tuple[_Version, str]]:
        try:
            entries = os.scandir(self._directory)
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                if version := _version(entry):
                    yield version, entry.name

    def _line(self, name: str, version: _Version) -> tuple[_Version, ExperimentLine | None]:
        known = self._known.get(name)
        return known if known and known[0] == version else (version, _read(self._directory / name))


def _version(entry: "os.DirEntry[str]") -> _Version | None:
    if entry.name.startswith("."):
        return None
    try:
        found = entry.stat()
    except OSError:  # replaced at this moment
        return None
    return _Version(found.st_mtime_ns, found.st_ino, found.st_size)


def _read(path: Path) -> ExperimentLine | None:
    """None for what is no record."""
    try:
        descriptor = open_regular(path)
        if descriptor is None:
            return None
        with os.fdopen(descriptor, "rb") as file:
            document = loads(file.read(LONGEST_RECORD))
    except (OSError, ValueError, RecursionError):
        return None
    return line_of(Record(str(document.get("key", path.name)), document)) if isinstance(document, dict) else None


def line_of(record: Record) -> ExperimentLine:
    own = record.own
    return ExperimentLine(
        key=record.key,
        status=status(record),
        stage=_text(own, "stage"),
        reason=_text(own, "reason"),
        sentence=_text(own, "sentence"),
        queue=_text(own, "queue"),
        project=_text(record.document, "project"),
        host=_text(own, "host"),
        attempt=own["attempt"] if isinstance(own.get("attempt"), int) else None,
        script=script(record)[:500],
        time_added=_time(record, "time_added"),
        time_started=_time(record, "time_started"),
        time_finished=_time(record, "time_finished"),
    )


def _time(record: Record, name: str) -> float | None:
    """None also for what no clock shows (JSON of Python's may hold an infinity)."""
    time = record.time(name)
    return time if time is not None and 0 <= time < LATEST else None


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    return mask_urls(str(value))[:MOST_TOLD] if value else None
