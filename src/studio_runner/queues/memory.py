"""A broker without a disk, for tests of what uses one. Everything is lost when the process ends."""

import asyncio
import bisect
import itertools
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from studio_runner.errors import BrokerError, LeaseLostError
from studio_runner.messages.naming import is_called
from studio_runner.queues.base import DeadLetter, Gate, QueueStatus, Ticket
from studio_runner.queues.waiting import first_of

LOOK = 0.5
"""Seconds after which what was refused is offered again."""


@dataclass(frozen=True, order=True)
class _Message:
    """Sorted by when it was published, which a return does not change."""

    serial: int
    body: bytes = field(compare=False)
    attempts: int = field(compare=False, default=0)
    due: float = field(compare=False, default=0.0)

    @property
    def charged(self) -> "_Message":
        return replace(self, attempts=self.attempts + 1)


class _Queue:
    """Everything of one queue."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.waiting: list[_Message] = []
        self.held: set[MemoryDelivery] = set()
        self.dead: dict[str, tuple[DeadLetter, _Message]] = {}
        self.version = 0
        self._changed = asyncio.Event()

    @property
    def exists(self) -> bool:
        """Somebody made it or published to it; waiting for messages does not make a queue."""
        return self.version > 0

    def add(self, message: _Message) -> None:
        bisect.insort(self.waiting, message)
        self.version += 1
        self._changed.set()

    async def changed(self, seen: int, at_most: float | None) -> None:
        """Until `version` is other than `seen`, or so many seconds have passed."""
        try:
            async with asyncio.timeout(at_most):
                while self.version == seen:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return

    def until_look(self) -> float | None:
        """Seconds until a message is to be offered (again); None when there is none."""
        now = time.monotonic()
        return min((message.due - now if message.due > now else LOOK for message in self.waiting), default=None)


class MemoryDelivery:
    """A message that was taken out of its queue."""

    def __init__(self, queue: _Queue, message: _Message, ticket: Ticket) -> None:
        self._queue = queue
        self._message = message
        self._ticket = ticket
        self._ended: BrokerError | None = None

    @property
    def body(self) -> bytes:
        return self._message.body

    @property
    def queue(self) -> str:
        return self._queue.name

    @property
    def attempts(self) -> int:
        return self._message.attempts

    @property
    def redelivered(self) -> bool:
        return self.attempts > 0

    @property
    def ticket(self) -> Ticket:
        return self._ticket

    async def extend(self) -> None:
        if self._ended is not None:
            raise self._ended

    async def ack(self) -> None:
        await self._settle()

    async def requeue(self, delay: float = 0.0, *, charge: bool = True, reason: str = "") -> None:  # noqa: ARG002
        await self._settle()
        message = self._message.charged if charge else self._message
        self._queue.add(replace(message, due=time.monotonic() + delay if delay > 0 else 0.0))

    async def dead_letter(self, reason: str) -> None:
        await self._settle()
        name, message = uuid.uuid4().hex, self._message.charged
        letter = DeadLetter(self.queue, name, reason, datetime.now(UTC), message.attempts, self.body)
        self._queue.dead[name] = letter, message

    def lose(self) -> None:
        """As if this runner had been out of touch for longer than its lease."""
        self._end(LeaseLostError(f"a message of queue {self.queue} is no longer held here"))
        self._queue.add(self._message.charged)

    async def _settle(self) -> None:
        await self.extend()
        self._end(BrokerError(f"a delivery from queue {self.queue} was settled already"))

    def _end(self, answer: BrokerError) -> None:
        self._ended = answer
        self._queue.held.discard(self)


class MemoryBroker:
    """Queues in this process. A queue comes into being when something is published to it."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}
        self._serials = itertools.count()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Messages stay, so that a test can look at them."""

    async def queues(self) -> Sequence[str]:
        return sorted(name for name, queue in self._queues.items() if queue.exists)

    async def changed(self) -> None:
        """Return once there are other queues than now."""
        before = await self.queues()
        while await self.queues() == before:  # noqa: ASYNC110  for tests: they do not wait long
            await asyncio.sleep(0.05)

    async def consume(self, queue: str, gate: Gate) -> AsyncGenerator[MemoryDelivery, None]:
        source = self._queue(queue)
        while True:
            await gate.opened()
            version, releases = source.version, gate.releases
            delivery = _take(source, gate)
            if delivery is not None:
                yield delivery
                continue
            await first_of(source.changed(version, source.until_look()), gate.released(releases))

    async def publish(self, queue: str, body: bytes) -> None:
        self._queue(queue).add(_Message(next(self._serials), body))

    async def report(self, queue: str, text: bytes) -> bool:
        if not await self.exists(queue):
            return False
        await self.publish(queue, text)
        return True

    async def exists(self, queue: str) -> bool:
        return queue in self._queues and self._queues[queue].exists

    async def create(self, queue: str) -> None:
        source = self._queue(queue)
        source.version = max(1, source.version)

    async def status(self, queue: str) -> QueueStatus:
        source, now = self._queue(queue), time.monotonic()
        delayed = sum(message.due > now for message in source.waiting)
        waiting = len(source.waiting) - delayed
        return QueueStatus(queue, waiting, len(source.held), delayed, len(source.dead))

    async def dead_letters(self, queue: str) -> Sequence[DeadLetter]:
        return [letter for letter, _ in self._queue(queue).dead.values()]

    async def revive(self, queue: str, name: str | None = None) -> int:
        source = self._queue(queue)
        names = [found for found in source.dead if name in (None, found)]
        for found in names:
            _, message = source.dead.pop(found)
            source.add(replace(message, attempts=0, due=0.0))
        return len(names)

    async def withdraw(self, queue: str, name: str) -> bool:
        source = self._queue(queue)
        for message in source.waiting:
            if is_called(message.body, name):
                source.waiting.remove(message)
                return True
        return False

    def expire(self, queue: str) -> None:
        """Lose every delivery of `queue` that is held, as if its runner had been out of touch."""
        for delivery in list(self._queue(queue).held):
            delivery.lose()

    def _queue(self, name: str) -> _Queue:
        return self._queues.setdefault(name, _Queue(name))


def _take(source: _Queue, gate: Gate) -> MemoryDelivery | None:
    """The oldest message that the gate admits."""
    now = time.monotonic()
    for message in source.waiting:
        if message.due > now:
            continue
        ticket = gate.admit(source.name, message.body)
        if ticket is not None:
            source.waiting.remove(message)
            delivery = MemoryDelivery(source, message, ticket)
            source.held.add(delivery)
            return delivery
    return None
