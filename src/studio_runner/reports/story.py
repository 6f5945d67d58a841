"""What is reported of one experiment, over its attempts here: it waits in its order, as far as there is room."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from studio_runner.errors import InvalidMessageError
from studio_runner.messages.jsontext import read_json
from studio_runner.messages.report import Payload, Progress
from studio_runner.reports.base import Subject
from studio_runner.reports.despatch import Despatch, Talk
from studio_runner.reports.sequence import gap

log = logging.getLogger(__name__)

MOST_LINES, MOST_BYTES = 4000, 1 << 20
"""Lines of one experiment that wait; beyond that the oldest are left out."""
MOST_BYTES_IN_ALL = 64 << 20
LONGEST_LINE = 64 << 10
"""Bytes of a line that is reported: sealed it fits into a message of every broker."""
BREATH = 0.002
"""Seconds after a line, for other work: sealing takes a good part of a millisecond."""
FLOOD, FLOODED = 100, 0.05
"""So many lines left out while one is sent are a flood, and the breath is this long: no loss where so much is left
out, and the script has the processor."""


class _Item(NamedTuple):
    """Something to say, at Unix time `at`; `said` is bytes where it is a line of the script."""

    talk: Talk
    at: float
    said: Payload | bytes
    begins: bool = False
    """It comes before all lines."""


@dataclass
class Room:
    """Bytes of lines that wait, of all experiments."""

    used: int = 0


class Story:
    """Has a task while something waits; `forget` is called when there is nothing left and no attempt goes on."""

    def __init__(self, despatch: Despatch, room: Room, forget: Callable[[], object]) -> None:
        self._despatch, self._room, self._forget = despatch, room, forget
        self._talks: dict[int, Talk] = {}
        """By the attempt's number."""
        self._waiting: deque[_Item] = deque()
        self._lines = self._bytes = self._in_hand = 0
        self.task: asyncio.Task[None] | None = None

    @property
    def left(self) -> int:
        """Reports that are not sent yet."""
        return len(self._waiting) + self._in_hand

    @property
    def is_over(self) -> bool:
        """No attempt goes on."""
        return not self._talks

    def begin(self, subject: Subject, at: float, payloads: Iterable[Payload]) -> None:
        """An attempt begins."""
        talk = self._talks.setdefault(subject.number, Talk(subject))
        self._waiting += (_Item(talk, at, payload, begins=True) for payload in payloads)
        self._go_on()

    def has_begun(self, subject: Subject) -> bool:
        """Whether the attempt goes on."""
        return subject.number in self._talks

    def hear(self, subject: Subject, line: bytes) -> None:
        """A line of its script."""
        talk = self._talks.get(subject.number)
        if talk is None or talk.mute:
            return
        if len(line) > LONGEST_LINE:
            talk.left_out += 1
            return
        self._waiting.append(_Item(talk, time.time(), line))
        self._count(1, len(line))
        while self._lines > MOST_LINES or self._bytes > MOST_BYTES or self._room.used > MOST_BYTES_IN_ALL:
            self._leave_out()
        self._go_on()

    def end(self, subject: Subject, at: float, payloads: Iterable[Payload]) -> None:
        """An attempt that began is over."""
        talk = self._talks.pop(subject.number)
        talk.ended = time.monotonic()
        self._waiting += (_Item(talk, at, payload) for payload in payloads)
        self._go_on()

    def hurry(self) -> None:
        """Leave out the lines that wait: there is no time for more than the rest."""
        while self._lines:
            self._leave_out()

    def give_up(self) -> None:
        """Others need the room."""
        log.info("%d reports are given up: too many experiments wait for their brokers", self.left)
        self._room.used -= self._bytes
        self._waiting.clear()
        if self.task is not None:
            self.task.cancel()
        self._forget()

    def _go_on(self) -> None:
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._work(), name="reports")

    async def _work(self) -> None:
        while self._waiting:
            item = self._waiting.popleft()
            self._in_hand = 1
            if isinstance(item.said, bytes):
                self._count(-1, -len(item.said))
            await self._tell(item)
            self._in_hand = 0
            if isinstance(item.said, bytes) and not item.talk.mute:
                await asyncio.sleep(FLOODED if item.talk.left_out > FLOOD else BREATH)
        if self.is_over:
            self._forget()

    async def _tell(self, item: _Item) -> None:
        try:
            await self._say(item)
        except Exception:  # nobody else would hear of it, and the next attempt is to be told of
            log.exception("nothing more is reported of this attempt at experiment %s", item.talk.subject.key)
            item.talk.mute = True

    async def _say(self, item: _Item) -> None:
        talk, payload = item.talk, _read(item.said) if isinstance(item.said, bytes) else item.said
        if talk.left_out and not item.begins:
            missing, talk.left_out = talk.left_out, 0
            await self._despatch.send(talk, item.at, gap(missing))
        if payload is not None:
            await self._despatch.send(talk, item.at, payload)

    def _leave_out(self) -> None:
        """The oldest line that waits."""
        for index, item in enumerate(self._waiting):
            if isinstance(item.said, bytes):
                del self._waiting[index]
                self._count(-1, -len(item.said))
                item.talk.left_out += 1
                return

    def _count(self, lines: int, size: int) -> None:
        self._lines += lines
        self._bytes += size
        self._room.used += size


def _read(line: bytes) -> Progress | None:
    """None for a line that only looked like JSON."""
    try:
        read_json(line, LONGEST_LINE)
    except InvalidMessageError:
        return None
    return Progress(json=line.decode().strip())
