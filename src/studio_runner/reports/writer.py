"""Writing what happens to one attempt into one record, behind the attempt's back."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from studio_runner.reports.base import Ended, Event, Subject
from studio_runner.reports.progress import Changes, applied, noted
from studio_runner.reports.records import Records

GATHER = 0.1
"""Seconds that news wait for more: an experiment that is over in a blink costs one write or two."""

Put = Callable[[Changes], Awaitable[None]]
"""Brings all that an attempt has to say into its record; never raises for the place's sake."""


class Writer:
    """One attempt's; at most one write at a time, each of everything there is to say by then."""

    def __init__(self, subject: Subject, put: Put) -> None:
        self._subject, self._put = subject, put
        self._changes: Changes = {}
        self._news = False
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def changes(self) -> Changes:
        """All that there is to say."""
        return self._changes

    @property
    def ended(self) -> bool:
        """Nothing more will come."""
        return self._hurry.is_set()

    def add(self, event: Event) -> None:
        """Remember; it goes with the next write."""
        self._changes = noted(self._changes, event)
        self._news = True
        if isinstance(event, Ended):
            self._hurry.set()

    def write(self) -> "asyncio.Task[None]":
        """The task that writes what there is to say, and whatever is said meanwhile."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write(), name=f"record {self._subject.key}")
        return self._task

    async def _write(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(GATHER):
                await self._hurry.wait()
        while self._news:
            self._news = False
            await self._put(self._changes)


async def put(records: Records, changes: Changes, subject: Subject, otherwise: Mapping[str, Any] | None) -> None:
    """Into the record. One that does not exist begins as `otherwise`; None: it stays away."""

    def edit(document: dict[str, Any] | None) -> Mapping[str, Any] | None:
        before = otherwise if document is None else document
        return None if before is None else applied(before, changes, subject)

    await records.change(subject.key, edit)
