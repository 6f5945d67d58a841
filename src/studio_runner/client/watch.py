"""Waiting for an experiment, with or without its output before one's eyes."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

from studio_runner.client.artifact_files import stored_output
from studio_runner.errors import NotFoundError
from studio_runner.process.follow import follow
from studio_runner.reports.records import Record, Records
from studio_runner.storage.base import CHUNK

Write = Callable[[bytes], None]

_SOONEST, _LATEST = 0.03, 1.0
"""Seconds between two looks at a record; the longer nothing happens, the rarer."""


async def until(records: Records, key: str, true: Callable[[Record], bool]) -> Record:
    """Look at the record until it is as wanted."""
    pause = _SOONEST
    while True:
        record = await records.read(key)
        if record is None:
            raise NotFoundError(f"The record of experiment {key} is gone")
        if true(record):
            return record
        await asyncio.sleep(pause)
        pause = min(_LATEST, pause * 1.2)


async def wait(records: Records, key: str) -> Record:
    """Until it is over."""
    return await until(records, key, lambda record: record.over)


async def follow_output(records: Records, key: str, write: Write, tail: int | None = None) -> Record:
    """Write the output as it comes until the experiment is over, from whatever attempts it takes.

    With `tail` only the last lines of what there is already are written before what comes. What runs on another
    machine, or was over before it could be looked at, is written from the store at the end.
    """
    following = _Following(records, write, tail)
    record = await until(records, key, following.has_something)
    while not record.over:
        await following.attempt(record)
        record = await until(records, key, following.has_something)
    if not following.seen:
        await write_stored(record, write, tail)
    return record


async def write_stored(record: Record, write: Write, tail: int | None = None) -> bool:
    """Write the stored output, or its last lines; False when there is none."""
    async with stored_output(record) as path:
        if path is None:
            return False
        write_file(path, write, tail)
    return True


def write_file(path: Path, write: Write, tail: int | None = None) -> None:
    """Write what is in a file now, or its last lines."""
    with path.open("rb") as file:
        file.seek(0 if tail is None else tail_offset(path, tail))
        while piece := file.read(CHUNK):
            write(piece)


def live_output(record: Record) -> Path | None:
    """The output's file while the experiment runs on this machine."""
    place = record.own.get("directory")
    if record.status != "running" or not place or record.own.get("host") != socket.gethostname():
        return None
    path = Path(place) / "output" / "output"
    return path if path.exists() else None


def tail_offset(path: Path, lines: int) -> int:
    """Where the last `lines` lines of a file begin."""
    with path.open("rb") as file:
        position = end = file.seek(0, 2)
        if lines <= 0:
            return end
        while position:
            start = max(0, position - CHUNK)
            file.seek(start)
            block = file.read(position - start)
            stop = len(block)
            while (stop := block.rfind(b"\n", 0, stop)) >= 0:
                if start + stop == end - 1:  # ends the last line, begins none
                    continue
                lines -= 1
                if not lines:
                    return start + stop + 1
            position = start
    return 0


class _Following:
    """What has been written of an experiment's output, over its attempts: a later one goes on in the output of
    the one before."""

    def __init__(self, records: Records, write: Write, tail: int | None) -> None:
        self._records, self._write, self._tail = records, write, tail
        self._attempt: object = None
        self.seen = 0

    def has_something(self, record: Record) -> bool:
        """It is over, or an attempt runs here that was not followed yet."""
        return record.over or (record.own.get("attempt") != self._attempt and live_output(record) is not None)

    async def attempt(self, record: Record) -> None:
        """Follow one attempt to its end."""
        self._attempt = record.own.get("attempt")
        path = live_output(record)
        if path is None:
            return
        if not self.seen and self._tail is not None:
            self.seen = tail_offset(path, self._tail)
        ended = asyncio.Event()
        watching = asyncio.create_task(self._until_end(record.key, ended), name=f"watch {record.key}")
        try:
            async for piece in follow(path, ended.is_set, self.seen):
                self.seen += len(piece)
                self._write(piece)
        finally:  # not a task group: a reader who has gone is to be told as it is
            watching.cancel()
            await asyncio.wait([watching])

    async def _until_end(self, key: str, ended: asyncio.Event) -> None:
        await until(self._records, key, self._is_past)
        ended.set()

    def _is_past(self, record: Record) -> bool:
        return record.status != "running" or record.own.get("attempt") != self._attempt
