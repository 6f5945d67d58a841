"""The messages of one queue that a gate admits."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from studio_runner.queues.base import Gate
from studio_runner.queues.sqs.delivery import Receipt, SqsDelivery
from studio_runner.queues.sqs.faults import QueueMissingError
from studio_runner.queues.sqs.queue import BATCH
from studio_runner.queues.sqs.refused import Refused
from studio_runner.queues.sqs.traffic import Poll, Traffic

STREAK = 8
"""Messages admitted one after another for each more that is asked for at once."""
SLOWEST = 5.0
"""Seconds between two requests of a runner that goes through many messages of which it can start none."""
ABSENT = 1.0
"""Seconds until a queue that does not exist is looked for again."""


class Consumer:
    """Asks for one message at a time while it does not know better: what is received and not started helps nobody.

    A refused message stays here, hidden from others, for a few seconds: when something is given back meanwhile it
    is offered again at once. Then it goes back for other runners to see, unless room is held free for it.
    """

    def __init__(self, name: str, gate: Gate, traffic: Traffic) -> None:
        self._name, self._gate, self._traffic = name, gate, traffic
        custody = traffic.custody
        self._refused = Refused(custody.clock, custody.options.lease / 3)
        self._fresh: deque[Receipt] = deque()
        self._poll: Poll | None = None
        self._receiving = False
        self._likely = True
        self._streak = 0
        self._pause = 0.0

    async def deliveries(self) -> AsyncGenerator[SqsDelivery, None]:
        self._traffic.consumers += 1
        self._poll = self._traffic.resume(self._name)
        self._receiving = self._poll is not None
        try:
            while True:
                while (delivery := await self._next()) is not None:
                    yield delivery
                await self._turn()
        finally:
            self._traffic.consumers -= 1
            await self._leave()

    async def _next(self) -> SqsDelivery | None:
        """The next message that the gate admits, of those that are here."""
        if self._refused.seen != self._gate.releases:
            self._fresh.extendleft(reversed(self._refused.take_all()))
            self._refused.seen = self._gate.releases
            self._pause = 0.0
        while self._fresh:
            receipt = self._fresh.popleft()
            if await self._traffic.custody.adopts(receipt):
                continue
            ticket = self._gate.admit(self._name, receipt.message.body)
            if ticket is not None:
                self._streak += 1
                self._pause = 0.0
                return self._traffic.custody.take(receipt, ticket)
            self._streak = 0
            self._refused.add(receipt)
        return None

    async def _turn(self) -> None:
        """Wait for messages, for a chance of refused ones, or for the time to give those back."""
        due = self._refused.due()
        if due:
            await self._part_with(due)
        if self._poll is None:
            self._poll = asyncio.create_task(self._receive(), name=f"poll {self._name}")
        await self._first_event(self._poll)
        if self._poll.done():
            poll, self._poll = self._poll, None
            found = poll.result()
            self._likely = bool(found)
            self._fresh.extend(found)

    async def _part_with(self, due: list[Receipt]) -> None:
        """They go back, but for the one that room is held free for: among very many it would not be found again
        when that is there. Other runners see it again when nothing is held free for it here."""
        kept = [receipt for receipt in due if self._gate.awaits(self._name, receipt.message.body)]
        for receipt in kept:
            if renewed := await self._traffic.keep(receipt):
                self._fresh.append(renewed)
        await self._traffic.give_back([receipt for receipt in due if receipt not in kept])

    async def _first_event(self, poll: Poll) -> None:
        """The poll's end; with refused messages here, also something given back or their time."""
        if not self._refused:
            await asyncio.wait([poll])
            return
        released = asyncio.ensure_future(self._gate.released(self._refused.seen))
        try:
            await asyncio.wait(
                [poll, released], timeout=self._refused.until_due(), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            released.cancel()
            await asyncio.gather(released, return_exceptions=True)

    async def _receive(self) -> list[Receipt]:
        """One request, when the gate is open. An empty queue is asked to answer when a message comes."""
        await asyncio.sleep(self._slower())
        await self._gate.opened()
        queue = await self._traffic.queues.find(self._name)
        if queue is None:
            await asyncio.sleep(ABSENT)
            return []
        self._receiving = True
        try:
            if self._likely:
                return await self._traffic.look(queue, self._gate, self._limit())
            return await self._traffic.wait(queue, self._limit())
        except QueueMissingError:
            await asyncio.sleep(ABSENT)
            return []
        finally:
            self._receiving = False

    def _limit(self) -> int:
        """More at a time when all were taken lately, or when none was and it takes a search."""
        if self._refused:
            return BATCH
        return min(BATCH, 1 + self._streak // STREAK)

    def _slower(self) -> float:
        """A search among very many messages that do not fit goes on at leisure."""
        if self._refused.is_full:
            self._pause = min(SLOWEST, max(0.1, 1.25 * self._pause))
        return self._pause

    async def _leave(self) -> None:
        """Everything that is here and was not admitted goes back."""
        if self._poll is not None and self._receiving and not self._poll.done():
            self._traffic.leave(self._name, self._poll)
        elif self._poll is not None:
            self._poll.cancel()
            [found] = await asyncio.gather(self._poll, return_exceptions=True)
            self._fresh.extend(found if isinstance(found, list) else ())
        rest = [*self._refused.take_all(), *self._fresh]
        self._fresh.clear()
        if rest:
            await self._traffic.give_back(rest)
