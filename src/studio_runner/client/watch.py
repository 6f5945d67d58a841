"""Waiting for an experiment, with or without its output before one's eyes."""

import asyncio
import os
import socket
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio_runner.client.artifact_files import OUTPUT, state_of, stored_output
from studio_runner.client.holdings import Holdings
from studio_runner.client.results import current
from studio_runner.client.tail import View, may_show, tail_offset, write_file
from studio_runner.errors import NotFoundError
from studio_runner.messages.credentials import secrets_in
from studio_runner.messages.masking import Masker, Spans
from studio_runner.process.follow import follow
from studio_runner.process.hidden import Hidden, opened_places
from studio_runner.process.shown import Veiled, Write
from studio_runner.reports.records import Record

_SOONEST, _LATEST = 0.03, 1.0
"""Seconds between two looks at a record; the longer nothing happens, the rarer."""

_MIRROR = 2.0
"""Seconds between two looks at an output that is on its way through a store."""


async def until(holdings: Holdings, key: str, true: Callable[[Record], bool]) -> Record:
    """Look at the record until it is as wanted."""
    pause = _SOONEST
    while not true(record := await current(holdings, key)):
        await asyncio.sleep(pause)
        pause = min(_LATEST, pause * 1.2)
    return record


async def wait(holdings: Holdings, key: str) -> Record:
    """Until it is over."""
    return await until(holdings, key, lambda record: record.over)


async def follow_output(holdings: Holdings, key: str, write: Write, tail: int | None = None) -> Record:
    """Write the output as it comes until the experiment is over, from whatever attempts it takes.

    With `tail` only the last lines of what there is already are written before what comes. Of what runs on another
    machine the output comes as often as its runner stores it.
    """
    with Veiled(write, view_of(holdings).masker) as veiled:
        following = _Following(holdings, veiled, tail)
        record = await until(holdings, key, following.has_something)
        while not record.over:
            await following.attempt(record)
            record = await until(holdings, key, following.has_something)
    if not following.seen:
        await write_stored(holdings, record, write, tail)
    return record


async def write_stored(holdings: Holdings, record: Record, write: Write, tail: int | None = None) -> bool:
    """Write the stored output, or its last lines; False when there is none."""
    async with stored_output(record, holdings.opener) as path:
        if path is None:
            return False
        newest = await holdings.records.read(record.key)  # it may tell of what came while the output was fetched
        write_file(path, write, view_of(holdings).of_stored(newest or record), tail)
    return True


async def write_live(holdings: Holdings, path: Path, write: Write, tail: int | None = None) -> None:
    """Write what is in the output of an experiment that runs here now, or its last lines."""
    with opened_places(_attempt(path)) as hidden:
        write_file(path, write, replace(view_of(holdings), hidden=hidden), tail)


def view_of(holdings: Holdings) -> View:
    """Of somebody who knows what is secret in the own configuration."""
    return View(Masker(secrets_in(holdings.config.document)))


def _attempt(output: Path) -> Path:
    """The directory of the attempt that has this output."""
    return output.parent.parent


def live_output(record: Record) -> Path | None:
    """The output's file while the experiment runs on this machine."""
    place = record.own.get("directory")
    if record.status != "running" or not place or record.own.get("host") != socket.gethostname():
        return None
    path = Path(place) / OUTPUT / OUTPUT
    return path if path.exists() else None


def runs_elsewhere(record: Record) -> bool:
    """Whether all that can be seen of its output here is what is stored of it."""
    if record.over:
        return False
    if host := record.own.get("host"):
        return record.status != "waiting" and host != socket.gethostname()
    output = (record.document.get("artifacts") or {}).get(OUTPUT) or {}  # nobody keeps its record
    return not str(output.get("qualified", "file:")).startswith("file:")


class _Following:
    """What has been written of an experiment's output, over its attempts: a later one goes on in the output of
    the one before."""

    def __init__(self, holdings: Holdings, write: Write, tail: int | None) -> None:
        self._holdings, self._write, self._tail = holdings, write, tail
        self._attempt: object = None
        self.seen = 0

    def has_something(self, record: Record) -> bool:
        """It is over, runs elsewhere, or an attempt runs here that was not followed yet."""
        return record.over or runs_elsewhere(record) or self._is_new_here(record)

    async def attempt(self, record: Record) -> None:
        """Follow one attempt to its end, or wherever it runs elsewhere until it does not."""
        if runs_elsewhere(record):
            await self._mirror(record)
            return
        self._attempt = record.own.get("attempt")
        if path := live_output(record):
            with opened_places(_attempt(path)) as hidden:
                await self._follow(path, hidden, lambda: until(self._holdings, record.key, self._is_past))

    def _is_new_here(self, record: Record) -> bool:
        return record.own.get("attempt") != self._attempt and live_output(record) is not None

    def _is_past(self, record: Record) -> bool:
        return record.status != "running" or record.own.get("attempt") != self._attempt

    async def _follow(self, path: Path, hidden: Hidden, end: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Write what is added to the file until `end()` is over."""
        if not self.seen and self._tail is not None:
            self.seen = tail_offset(path, self._tail)
        watching = asyncio.create_task(end(), name=f"watch {path.name}")
        try:
            async for piece in follow(path, watching.done, self.seen, hidden):
                self.seen += len(piece)
                self._write(piece)
        finally:  # not a task group: a reader who has gone is to be told as it is
            watching.cancel()
            await asyncio.wait([watching])
        watching.result()

    async def _mirror(self, record: Record) -> None:
        """Follow a copy of what is stored, which is replaced whenever that changes."""
        with tempfile.TemporaryDirectory(prefix="studio-runner-") as place:
            path = Path(place) / OUTPUT
            path.touch()
            mirror = _Mirror(self._holdings, record, path)
            await mirror.renew()
            await self._follow(mirror.path, mirror.hidden, mirror.until_over)


class _Mirror:
    """A copy of the stored output in a file here."""

    def __init__(self, holdings: Holdings, record: Record, path: Path) -> None:
        self._holdings, self._record, self.path = holdings, record, path
        self._etag: str | None = None
        self._refused: tuple[str | None, int | None] | None = None
        """What is stored, and how far the record told of it, when it could not be shown."""
        self._places: Spans = ()

    def hidden(self) -> Spans:
        """Where secrets are in it."""
        return self._places

    async def until_over(self) -> None:
        """Keep the copy new until the experiment is over or runs where one can look at it."""
        record = self._record
        while runs_elsewhere(record):
            await asyncio.sleep(_MIRROR)
            self._record = record = await current(self._holdings, record.key)
            await self.renew()

    async def renew(self) -> None:
        """Bring the copy up to date, unless it is not known yet where secrets are in the new one, which takes the
        place of the old one; that tells the reader of it."""
        state = await state_of(self._record, OUTPUT, self._holdings.opener)
        if state is None or state.etag == self._etag or (state.etag, self._view.until) == self._refused:
            return
        try:
            async with stored_output(self._record, self._holdings.opener) as path:
                if path is None or not await self._may_show(path):
                    self._refused = (state.etag, self._view.until)
                    return
                await asyncio.to_thread(os.replace, path, self.path)
        except NotFoundError:
            return
        self._etag = state.etag

    async def _may_show(self, path: Path) -> bool:
        """The record is read after the output, and tells of it later than it is stored."""
        self._record = await current(self._holdings, self._record.key)
        self._places = self._view.hidden()
        return may_show(path, self._view)

    @property
    def _view(self) -> View:
        return view_of(self._holdings).of_stored(self._record)
