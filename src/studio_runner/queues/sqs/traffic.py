"""How many requests for messages are under way, over all queues of a broker.

A long poll costs a connection, so there are at most `LONG_POLLS`; when more queues are served than that, each polls
for a shorter time and they take turns. Where messages are waiting, few queues ask at a time: what all of them
brought at once could not be started.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace

from studio_runner.errors import BrokerError
from studio_runner.queues.base import Gate
from studio_runner.queues.sqs.delivery import Custody, Receipt
from studio_runner.queues.sqs.faults import HandleInvalidError
from studio_runner.queues.sqs.listing import QueueList
from studio_runner.queues.sqs.queue import SqsQueue

log = logging.getLogger(__name__)

LONG_POLLS = 100
SHORT_POLLS = 4
SLOW = 5.0
"""Seconds that an answer may take to come here: messages are hidden for so much longer than we count."""
ROUND = 10.0
"""Seconds in which every queue should have its turn when there are more queues than long polls."""
LINGER = 2.0
"""Seconds that the end of a broker waits for polls under way. What a cut poll had received comes back when its
visibility timeout is over, charged as if it had been tried."""

Poll = asyncio.Task[list[Receipt]]


class Traffic:
    """Ended by `close`, which waits a moment for polls that have no consumer any more."""

    def __init__(self, queues: QueueList, custody: Custody) -> None:
        self.queues, self.custody = queues, custody
        self.consumers = 0
        self._long = asyncio.Semaphore(LONG_POLLS)
        self._short = asyncio.Semaphore(SHORT_POLLS)
        self._left: dict[Poll, str] = {}
        self._returning: set[asyncio.Task[None]] = set()

    async def look(self, queue: SqsQueue, gate: Gate, limit: int) -> list[Receipt]:
        """What is there now, if the gate is still open when it is this queue's turn."""
        async with self._short:
            return await self._receive(queue, limit, 0) if await _is_open(gate) else []

    async def wait(self, queue: SqsQueue, limit: int) -> list[Receipt]:
        """What comes within one long poll."""
        async with self._long:
            return await self._receive(queue, limit, self._patience())

    async def _receive(self, queue: SqsQueue, limit: int, wait: float) -> list[Receipt]:
        found = await queue.receive(limit, wait, self.custody.options.lease + SLOW)
        now = self.custody.clock()
        return [Receipt(queue, message, now) for message in found]

    def _patience(self) -> float:
        longest = self.custody.options.wait
        if self.consumers <= LONG_POLLS:
            return longest
        return min(longest, max(1.0, ROUND * LONG_POLLS / self.consumers))

    # -- polls that outlive their consumer ----------------------------------------------------------------------

    def leave(self, name: str, poll: Poll) -> None:
        """A poll cannot be taken back: what it brings is for the next consumer of the queue, or goes back."""
        self._left[poll] = name
        poll.add_done_callback(self._return)

    def resume(self, name: str) -> Poll | None:
        """The poll that an earlier consumer of the queue left behind."""
        for poll in [poll for poll, left in self._left.items() if left == name]:
            poll.remove_done_callback(self._return)
            del self._left[poll]
            return poll
        return None

    async def give_back(self, receipts: Sequence[Receipt]) -> None:
        """What cannot be given back comes back by itself when its visibility timeout is over."""
        for queue in {receipt.queue for receipt in receipts}:
            try:
                await queue.give_back([receipt.message for receipt in receipts if receipt.queue is queue])
            except BrokerError as error:
                log.info("messages go back by themselves: %s", error)

    async def keep(self, receipt: Receipt) -> Receipt | None:
        """Hide a message for longer; None when that cannot be done, and it comes back by itself."""
        now = self.custody.clock()
        try:
            await receipt.queue.hide(receipt.message, self.custody.options.lease + SLOW)
        except (BrokerError, HandleInvalidError) as error:
            log.info("a message goes back by itself: %s", error)
            return None
        return replace(receipt, at=now)

    async def close(self) -> None:
        if self._left:
            await asyncio.wait(list(self._left), timeout=LINGER)
        for poll in list(self._left):
            poll.cancel()
            await asyncio.gather(poll, return_exceptions=True)
        while self._returning:
            await asyncio.gather(*self._returning, return_exceptions=True)

    def _return(self, poll: Poll) -> None:
        del self._left[poll]
        if poll.cancelled() or poll.exception() is not None or not poll.result():
            return
        task = asyncio.create_task(self.give_back(poll.result()), name="give messages back")
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)


async def _is_open(gate: Gate) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0):
            await gate.opened()
            return True
    return False
