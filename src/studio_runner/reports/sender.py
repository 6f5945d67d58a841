"""Keeps the records of the senders current, in their own databases (INTERFACE section 6).

Those are across a network and belong to somebody else: no experiment fails for them, and none waits for more than
the last word. For many clients that is the only one, and it would be lost with a runner that is killed after it has
settled the message. What cannot be written is tried again while the experiment lasts, for a while after, and once
more when the runner ends.
"""

import asyncio
import logging
import time
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import Self

from studio_runner.errors import ConfigError, StudioRunnerError
from studio_runner.reports.base import Ended, Event, StageEntered, Subject
from studio_runner.reports.databases import Database, Databases
from studio_runner.reports.progress import begun
from studio_runner.reports.writer import Writer, put

log = logging.getLogger(__name__)

TRY = 120.0
"""Seconds for one write, which tries again by itself what may pass (`storage.patience`)."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
LINGER = 600.0
"""Seconds after an experiment's end until nobody tries any more."""
CLOSING = 10.0
"""Seconds that the runner's own end waits for the last writes."""
LAST_WORD = 30.0
"""Seconds that the end of an experiment waits for its record, where the database was not in trouble before."""
MOST_LINGERING = 1000
"""Ended experiments whose records are still to be written; beyond that the oldest are given up."""

_COMPLETION = "from_compl_service"
"""A field of clients that always make the record themselves, and delete it when they are done with it."""


class SenderRecorder:
    """A reporter with one writer for each attempt whose sender has a database. To be entered; leaving it waits for
    the last writes."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._pages: dict[tuple[str, int], _Page] = {}
        self._lingering: dict[asyncio.Task[None], _Page] = {}
        self._closing = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        tasks = {page.writer.write(): page for page in self._pages.values()} | self._lingering
        if not tasks:
            return
        try:
            _, late = await asyncio.wait(tasks, timeout=CLOSING)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for name, count in Counter(tasks[task].database.name for task in late).items():
            log.warning("%d experiment records in %s were not brought up to date", count, name)

    async def report(self, event: Event) -> None:
        """Returns at once, but for the last word: see LAST_WORD."""
        which = (event.subject.key, event.subject.number)
        page = self._pages.get(which) or self._page(event.subject)
        if page is None:
            return
        self._pages[which] = page
        page.writer.add(event)
        if isinstance(event, StageEntered):  # goes with the next change of the status
            return
        task = page.writer.write()
        if isinstance(event, Ended):
            del self._pages[which]
            self._linger(task, page)
            if event.final and not page.database.is_in_trouble(LAST_WORD):
                await asyncio.wait([task], timeout=LAST_WORD)

    def _page(self, subject: Subject) -> "_Page | None":
        database = self._databases.of(subject)
        return _Page(subject, database, self._closing) if database else None

    def _linger(self, task: "asyncio.Task[None]", page: "_Page") -> None:
        self._lingering[task] = page
        task.add_done_callback(lambda done: self._lingering.pop(done, None))
        if len(self._lingering) > MOST_LINGERING:
            oldest = next(iter(self._lingering))
            log.info("%s is given up: too many wait", self._lingering.pop(oldest))
            oldest.cancel()


class _Page:
    """One attempt's record in its sender's database."""

    def __init__(self, subject: Subject, database: Database, closing: asyncio.Event) -> None:
        self.database = database
        self.writer = Writer(subject, lambda _: self._bring())
        self._subject, self._closing = subject, closing
        self._begin = None if _COMPLETION in subject.experiment else begun(subject)
        self._give_up: float | None = None

    def __str__(self) -> str:
        return f"The record of experiment {self._subject.key} in {self.database.name}"

    async def _bring(self) -> None:
        """Try until it is written, or until it has been of no use for long."""
        pause = FIRST_PAUSE
        while not await self._written():
            if self._too_late():
                log.info("%s is given up", self)
                return
            await self._pause(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _written(self) -> bool:
        """Everything there is to say by now."""
        try:
            async with self.database.turns, asyncio.timeout(TRY):
                await put(self.database.records, self.writer.changes, self._subject, self._begin)
        except ConfigError as error:  # trying again would not help
            self.database.failed(error)
            return True
        except (StudioRunnerError, OSError) as error:  # TimeoutError among them
            self.database.failed(error)
            return False
        self.database.worked()
        self._begin = None  # from now on a record that is not there was deleted by its owner
        return True

    def _too_late(self) -> bool:
        if not self.writer.ended:
            return False
        if self._give_up is None:
            self._give_up = time.monotonic() + LINGER
        return time.monotonic() > self._give_up

    async def _pause(self, seconds: float) -> None:
        if self._closing.is_set():
            await asyncio.sleep(FIRST_PAUSE)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()
