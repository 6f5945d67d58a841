"""The broker over SQS."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from types import TracebackType
from typing import Self

from studio_runner.config.settings import QueueSettings
from studio_runner.errors import BrokerError
from studio_runner.queues.base import DeadLetter, Gate, QueueStatus
from studio_runner.queues.complaints import Complaints
from studio_runner.queues.sqs.consumer import Consumer
from studio_runner.queues.sqs.dead import DeadLetters
from studio_runner.queues.sqs.delivery import Custody, Receipt, SqsDelivery
from studio_runner.queues.sqs.faults import QueueMissingError
from studio_runner.queues.sqs.holding import Holding
from studio_runner.queues.sqs.keeping import Keeping
from studio_runner.queues.sqs.listing import QueueList
from studio_runner.queues.sqs.messages import outgoing
from studio_runner.queues.sqs.options import Clock, SqsOptions, boot_clock
from studio_runner.queues.sqs.traffic import Traffic
from studio_runner.queues.waiting import heard

log = logging.getLogger(__name__)


class SqsBroker:
    """Asks for nothing until it is used. The first `consume` makes this process one of the runners: from then on it
    also looks after messages whose holder died."""

    def __init__(self, options: SqsOptions, runner: str, clock: Clock = boot_clock) -> None:
        self._options = options
        self._queues = QueueList(options)
        graves = DeadLetters(self._queues)
        self._holding = Holding(self._queues, options, runner)
        self._custody = Custody(options, clock, self._holding, graves)
        self._traffic = Traffic(self._queues, self._custody)
        self._keeping = Keeping(self._queues, graves)
        self._complaints = Complaints(log)
        self._caretaker: asyncio.Task[None] | None = None
        self._reported: list[str] = []
        self._nudge = asyncio.Event()

    @classmethod
    def of(cls, settings: QueueSettings, runner: str) -> "SqsBroker":
        return cls(SqsOptions.of(settings, runner), runner)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What is still held stays hidden until its visibility timeout is over."""
        try:
            if self._caretaker is not None:
                self._caretaker.cancel()
                await asyncio.gather(self._caretaker, return_exceptions=True)
            await self._traffic.close()
        finally:
            await self._queues.close()

    # -- Broker -------------------------------------------------------------------------------------------------

    async def queues(self) -> Sequence[str]:
        self._reported = await self._queues.names()
        return self._reported

    async def changed(self) -> None:
        while True:
            self._nudge.clear()
            await heard(self._nudge, self._options.tidy)
            try:
                if await self._queues.names() != self._reported:
                    return
                self._complaints.settled("SQS")
            except BrokerError as error:
                self._complaints.once("SQS", str(error), error.hint or "the queues known so far are served on")

    def consume(self, queue: str, gate: Gate) -> AsyncGenerator[SqsDelivery, None]:
        """Also for a queue that does not exist yet: its first message is delivered when it comes."""
        if self._caretaker is None:
            self._caretaker = asyncio.create_task(self._take_care(), name="SQS caretaker")
        return Consumer(queue, gate, self._traffic).deliveries()

    async def publish(self, queue: str, body: bytes) -> None:
        """To a queue that is created if need be."""
        message = outgoing(body, "")
        try:
            known = await self._queues.find(queue)
            if known is not None:
                await known.send(message)
                return
        except QueueMissingError:
            log.info("queue %s was deleted and is made again", queue)
        made = await self._queues.make(queue)
        await made.send(message)
        self._nudge.set()

    async def report(self, queue: str, text: bytes) -> bool:
        """On a FIFO queue all reports are of one group, so that they are read in their order."""
        known = await self._queues.find(queue)
        try:
            if known is not None:
                await known.send(outgoing(text, "reports"))
        except QueueMissingError:
            return await self.exists(queue) and await self.report(queue, text)  # it was made again
        return known is not None

    async def exists(self, queue: str) -> bool:
        return await self._queues.exists(queue)

    # -- QueueKeeper --------------------------------------------------------------------------------------------

    async def create(self, queue: str) -> None:
        await self._queues.make(queue)
        self._nudge.set()

    async def status(self, queue: str) -> QueueStatus:
        return await self._keeping.status(queue)

    async def dead_letters(self, queue: str) -> Sequence[DeadLetter]:
        return await self._keeping.dead_letters(queue)

    async def revive(self, queue: str, name: str | None = None) -> int:
        return await self._keeping.revive(queue, name)

    async def withdraw(self, queue: str, name: str) -> bool:
        return await self._keeping.withdraw(queue, name)

    # -- looking after held messages ----------------------------------------------------------------------------

    async def _take_care(self) -> None:
        while True:
            try:
                await self._bring_home()
            except BrokerError as error:
                self._complaints.once("SQS", str(error), error.hint or "held messages are looked for again")
            await asyncio.sleep(self._options.tidy)

    async def _bring_home(self) -> None:
        """Held messages of runners that died; one whose experiment still runs here was only late."""
        for account in self._queues.accounts:
            asked = self._custody.clock()
            for held, message in await self._holding.orphans(account):
                if not await self._custody.adopts(Receipt(held, message, asked)):
                    await self._holding.send_home(held, message)
