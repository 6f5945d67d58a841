"""Sealing reports for whoever has the key, and bringing them to a response queue for as long as it takes."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

from studio_runner.config.keys.files import SETTLES, KeyDirectory
from studio_runner.config.responses import response_of
from studio_runner.errors import KeyFileError, KeyUnsettledError, StudioRunnerError
from studio_runner.messages.keys import SealingKey
from studio_runner.messages.report import Payload, write_report
from studio_runner.messages.sealing import seal
from studio_runner.reports.base import Subject
from studio_runner.reports.sequence import report_on

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between two tries."""
LINGER = 600.0
"""Seconds after an attempt's end until nobody tries any more."""

T = TypeVar("T")


class Mailboxes(Protocol):
    """Response queues, by name."""

    async def exists(self, queue: str) -> bool: ...
    async def report(self, queue: str, text: bytes) -> bool:
        """False when there is no such queue any more."""
        ...


@dataclass
class Talk:
    """What there is to say of one attempt. `key` is whose reader has the other half, once that was looked up; it is
    `mute` when it turned out that nobody is to hear it."""

    subject: Subject
    key: SealingKey | None = None
    mute: bool = False
    left_out: int = 0
    """Lines since the last one that was sent."""
    ended: float | None = None
    """Monotonic time."""

    @property
    def is_stale(self) -> bool:
        return self.ended is not None and time.monotonic() - self.ended > LINGER

    @property
    def queue(self) -> str:
        return response_of(self.subject.queue)


class Despatch:
    """Where reports go out. Nothing ever goes in clear text."""

    def __init__(self, keys: KeyDirectory[SealingKey], boxes: Mailboxes) -> None:
        self._keys, self._boxes = keys, boxes
        self.closing = asyncio.Event()
        """The runner ends: pauses are short from now on."""
        self._unusable: dict[str, str] = {}
        self._failing: set[str] = set()

    async def send(self, talk: Talk, at: float, payload: Payload) -> None:
        """Return when the report is in the queue, or of no use to anybody any more. The first one of an attempt
        decides whether there is a reader."""
        if talk.key is None and not talk.mute:
            talk.key = await self._insisting(talk, lambda: self._reader(talk.queue))
            talk.mute = talk.key is None
        if talk.key is None or talk.mute:
            return
        text = seal(write_report(report_on(talk.subject, at, payload)), talk.key).encode()
        sent = await self._insisting(talk, lambda: self._boxes.report(talk.queue, text))
        talk.mute = not sent
        if sent is False:
            log.info("queue %s is gone: nothing more is reported of this attempt", talk.queue)

    async def _reader(self, queue: str) -> SealingKey | None:
        """The key of whoever reads this queue, if there is such a queue."""
        key = await self._key(queue)
        return key if key and await self._boxes.exists(queue) else None

    async def _key(self, queue: str) -> SealingKey | None:
        """Also None when there is one that cannot be used."""
        give_up = time.monotonic() + 2 * SETTLES
        while True:
            try:
                key = self._keys.of(queue)
            except KeyFileError as error:
                self._refuse(queue, error)
                return None
            except KeyUnsettledError as error:
                if time.monotonic() > give_up:
                    self._refuse(queue, error)
                    return None
            else:
                self._unusable.pop(queue, None)
                return key
            await self._pause(SETTLES / 4)

    def _refuse(self, queue: str, error: StudioRunnerError) -> None:
        """Once, until it is another trouble."""
        if self._unusable.get(queue) != str(error):
            self._unusable[queue] = str(error)
            log.warning("%s; nothing is reported to queue %s. %s", error, queue, error.hint or "")

    async def _insisting(self, talk: Talk, work: Callable[[], Awaitable[T]]) -> T | None:
        """Try until it works; None when the attempt has been over for too long."""
        pause, at_once = FIRST_PAUSE, True
        while not talk.is_stale:
            try:
                found = await work()
            except (StudioRunnerError, OSError) as error:  # TimeoutError among them
                self._complain(talk.queue, error)
                at_once = False
            else:
                if at_once:  # a full queue that is read slowly takes one now and then
                    self._failing.discard(talk.queue)
                return found
            await self._pause(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        log.info("reports of experiment %s are given up", talk.subject.key)
        return None

    def _complain(self, queue: str, error: Exception) -> None:
        """Once, until it works again."""
        if queue not in self._failing:
            self._failing.add(queue)
            log.warning("queue %s does not take reports now, they wait: %s", queue, error)

    async def _pause(self, seconds: float) -> None:
        if self.closing.is_set():
            await asyncio.sleep(min(seconds, FIRST_PAUSE))
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.closing.wait()
