"""Sealed reports to the senders of experiments (INTERFACE section 8), behind the work's back.

What is said of one experiment goes out in its order, by one task. Nobody waits for it: what a broker does not take
waits here, lines of scripts as many as there is room for, and what is left when the runner ends gets some seconds.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from studio_runner.config.keys.files import KeyDirectory
from studio_runner.messages.keys import SealingKey
from studio_runner.reports.base import Ended, Event, Started, Subject
from studio_runner.reports.despatch import Despatch, Mailboxes
from studio_runner.reports.sequence import before, closing, opening
from studio_runner.reports.story import Room, Story

log = logging.getLogger(__name__)

MOST_LINGERING = 1000
"""Ended experiments that still have something to say; beyond that the oldest are given up."""
CLOSING = 5.0
"""Seconds that the runner's own end waits for what is left, half of it for lines of scripts."""


class Responses:
    """A reporter that takes lines of JSON as well. What it is told outside `sending` goes nowhere."""

    def __init__(self, keys: KeyDirectory[SealingKey]) -> None:
        self._keys = keys
        self._despatch: Despatch | None = None
        self._room = Room()
        self._stories: dict[tuple[str, str], Story] = {}

    @asynccontextmanager
    async def sending(self, boxes: Mailboxes) -> AsyncIterator[None]:
        """Reports go to these until the context ends, which waits for the last of them for a limited time."""
        self._despatch = Despatch(self._keys, boxes)
        try:
            yield
        finally:
            self._despatch.closing.set()
            self._despatch = None
            await self._close()

    async def report(self, event: Event) -> None:
        """Returns at once."""
        subject = event.subject
        story = self._story(subject)
        if story is None:
            return
        if isinstance(event, Started):
            story.begin(subject, event.at, opening(event))
        elif isinstance(event, Ended):
            if not story.has_begun(subject):
                story.begin(subject, event.at, before(subject))
            story.end(subject, event.at, closing(event))
            self._limit()

    def printed(self, subject: Subject, line: bytes) -> None:
        """See `LineReporter`."""
        if story := self._stories.get((subject.queue, subject.key)):
            story.hear(subject, line)

    def _story(self, subject: Subject) -> Story | None:
        """All that is said of an experiment, over its attempts."""
        if self._despatch is None:
            return None
        which = subject.queue, subject.key
        if which not in self._stories:
            self._stories[which] = Story(self._despatch, self._room, lambda: self._stories.pop(which, None))
        return self._stories[which]

    def _limit(self) -> None:
        lingering = [story for story in self._stories.values() if story.is_over]
        for story in lingering[: max(0, len(lingering) - MOST_LINGERING)]:
            story.give_up()

    async def _close(self) -> None:
        tasks = [story.task for story in self._stories.values() if story.task is not None]
        if not tasks:
            return
        try:
            await asyncio.wait(tasks, timeout=CLOSING / 2)
            for story in self._stories.values():
                story.hurry()
            await asyncio.wait(tasks, timeout=CLOSING / 2)
        finally:
            left = sum(story.left for story in self._stories.values())
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if left:
            log.warning("%d reports on experiments were not sent", left)
