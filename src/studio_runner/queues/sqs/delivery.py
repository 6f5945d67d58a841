"""A message that this runner holds."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from studio_runner.errors import BrokerError, LeaseLostError, QueueDeletedError
from studio_runner.queues.base import Ticket
from studio_runner.queues.sqs.dead import DeadLetters
from studio_runner.queues.sqs.faults import HandleInvalidError, QueueMissingError, TooLargeError
from studio_runner.queues.sqs.holding import Holding
from studio_runner.queues.sqs.messages import Message, Note
from studio_runner.queues.sqs.options import Clock, SqsOptions
from studio_runner.queues.sqs.queue import LONGEST_DELAY, SqsQueue

log = logging.getLogger(__name__)

EARLY = 0.9
"""Of the ceiling: when a message is handed over to a fresh copy."""
AGAIN = 60.0
"""Seconds until the next try when that failed."""


@dataclass(frozen=True)
class Receipt:
    """Where a message is held, and since when by our clock."""

    queue: SqsQueue
    message: Message
    at: float


@dataclass(frozen=True)
class Custody:
    """What all deliveries of a broker share; `held` has those that are not settled, by identity."""

    options: SqsOptions
    clock: Clock
    holding: Holding
    graves: DeadLetters
    held: "dict[str, SqsDelivery]" = field(default_factory=dict)

    def take(self, receipt: Receipt, ticket: Ticket) -> "SqsDelivery":
        delivery = SqsDelivery(self, receipt, ticket)
        self.held[receipt.message.identity] = delivery
        return delivery

    async def adopts(self, receipt: Receipt) -> bool:
        """Whether the message is of an experiment that runs here: then its delivery goes on with this receipt."""
        delivery = self.held.get(receipt.message.identity)
        return delivery is not None and await delivery.adopt(receipt)


class SqsDelivery:
    """Its lease is a visibility timeout. When that has passed by our own clock the message counts as lost, whatever
    SQS would still take: somebody else may have it."""

    def __init__(self, custody: Custody, receipt: Receipt, ticket: Ticket) -> None:
        self._custody, self._receipt, self._ticket = custody, receipt, ticket
        self._home = receipt.queue
        self._first = receipt.message
        self._deadline = receipt.at + custody.options.lease
        self._hand_over_at = receipt.at + EARLY * custody.options.ceiling
        self._missing_since: float | None = None
        self._ended: BrokerError | None = None
        self._busy = asyncio.Lock()

    @property
    def body(self) -> bytes:
        return self._first.body

    @property
    def queue(self) -> str:
        return self._home.name

    @property
    def attempts(self) -> int:
        return self._first.attempts

    @property
    def redelivered(self) -> bool:
        return self._first.redelivered

    @property
    def ticket(self) -> Ticket:
        return self._ticket

    # -- holding ------------------------------------------------------------------------------------------------

    async def extend(self) -> None:
        async with self._busy:
            self._check()
            try:
                await self._renew()
            except QueueMissingError as error:
                self._check_cool_down(error)
            except HandleInvalidError as error:
                raise self._lost(error) from error

    async def adopt(self, receipt: Receipt) -> bool:
        """Go on with a later receipt of the same message (its lease had run out, and nobody else was faster)."""
        async with self._busy:
            if self._ended is not None:
                return False
            before, self._receipt = self._receipt, receipt
            self._deadline = receipt.at + self._custody.options.lease
            self._hand_over_at = receipt.at + EARLY * self._custody.options.ceiling
            if before.message.id != receipt.message.id:
                with contextlib.suppress(BrokerError):  # a copy too many: it comes again, and is adopted again
                    await before.queue.delete(before.message)
            log.warning(
                "a message of queue %s was delivered again to this runner, which still works on it", self.queue
            )
            return True

    async def _renew(self) -> None:
        custody, now = self._custody, self._custody.clock()
        if now >= self._hand_over_at:
            await self._hand_over(now)
        left = self._receipt.at + custody.options.ceiling - now
        if left < 1:
            return  # nothing to renew: it is lost when its deadline passes, unless it comes here again
        seconds = min(custody.options.lease, left)
        await self._receipt.queue.hide(self._receipt.message, seconds)
        self._deadline = now + seconds
        self._missing_since = None

    async def _hand_over(self, now: float) -> None:
        """Go on with a fresh copy. What goes wrong here is tried again, while there is time."""
        before = self._receipt
        try:
            note = self._note(self.attempts)
            queue, message = await self._custody.holding.hand_over(self._home, self._first, note)
        except QueueMissingError:
            raise
        except BrokerError as error:
            self._hand_over_at = now + min(AGAIN, 0.02 * self._custody.options.ceiling)
            left = (before.at + self._custody.options.ceiling - now) / 60
            log.warning("SQS ends the lease of a message of %s in %.0f minutes: %s", self.queue, left, error)
            return
        self._receipt = Receipt(queue, message, self._custody.clock())
        self._hand_over_at = self._receipt.at + EARLY * self._custody.options.ceiling
        with contextlib.suppress(BrokerError):  # then it comes again, and is adopted
            await before.queue.delete(before.message)

    def _check(self) -> None:
        if self._ended is not None:
            raise self._ended
        if self._missing_since is None and self._custody.clock() >= self._deadline:
            raise self._lost(None)

    def _check_cool_down(self, error: QueueMissingError) -> None:
        """The queue is not there: perhaps only for a moment."""
        now = self._custody.clock()
        if self._missing_since is None:
            self._missing_since = now
            log.warning(
                "queue %s is gone: its experiments stop in %g s", self.queue, self._custody.options.cool_down
            )
        if now - self._missing_since >= self._custody.options.cool_down:
            raise QueueDeletedError(f"queue {self.queue} was deleted") from error

    def _lost(self, error: BrokerError | None) -> LeaseLostError:
        """A queue that was deleted and made again has none of its messages."""
        kind = QueueDeletedError if error is not None and self._missing_since is not None else LeaseLostError
        lost = kind(f"a message of queue {self.queue} is no longer held here")
        self._end(lost)
        return lost

    # -- settling -----------------------------------------------------------------------------------------------

    async def ack(self) -> None:
        async with self._settling():
            await self._delete()

    async def requeue(self, delay: float = 0.0, *, charge: bool = True, reason: str = "") -> None:
        async with self._settling():
            attempts = self.attempts + 1 if charge else self.attempts
            note = replace(self._note(attempts), taken=True).remembering(reason)
            if charge and await self._is_spent(attempts):
                await self._bury(
                    replace(note, reason=reason or "it failed as often as the queue's redrive policy allows")
                )
            elif self._needs_copy(delay, charge=charge, reason=reason):
                await self._send_back(note, delay)
            else:
                await self._show(delay, charge=charge)

    async def dead_letter(self, reason: str) -> None:
        async with self._settling():
            await self._bury(replace(self._note(self.attempts + 1), reason=reason))

    @contextlib.asynccontextmanager
    async def _settling(self) -> AsyncIterator[None]:
        """Settled when the block is through. A queue that is gone has nothing to be settled."""
        async with self._busy:
            self._check()
            try:
                yield
            except QueueMissingError:
                log.info("queue %s is gone: nothing is left to settle", self.queue)
            except HandleInvalidError as error:
                raise self._lost(error) from error
            self._end(BrokerError(f"a delivery from queue {self.queue} was settled already"))

    def _end(self, answer: BrokerError) -> None:
        self._ended = answer
        if self._custody.held.get(self._first.identity) is self:
            del self._custody.held[self._first.identity]

    def _note(self, attempts: int) -> Note:
        return replace(self._first.kept_note(), attempts=attempts, origin="", group=self._group)

    @property
    def _group(self) -> str:
        return self._receipt.message.note.group or self._first.group

    @property
    def _at_home(self) -> bool:
        return self._receipt.queue is self._home and self._receipt.message is self._first

    def _needs_copy(self, delay: float, *, charge: bool, reason: str) -> bool:
        """Whether showing the message again is not enough: a delay that `queues` can tell, a count, a reason.

        A copy would lose its place in a FIFO queue, and is not delayed for more than 15 minutes.
        """
        if not self._at_home:
            return True
        if self._home.fifo or delay > LONGEST_DELAY or not self._first.can_be_copied:
            return False
        return bool(delay > 0 or not charge or reason)

    async def _send_back(self, note: Note, delay: float) -> None:
        try:
            await self._home.send(self._first.copy(note), min(delay, LONGEST_DELAY))
        except TooLargeError:
            await self._show(delay, charge=True)  # no room for the note
        else:
            await self._delete()

    async def _show(self, delay: float, *, charge: bool) -> None:
        if not charge:
            self._home.pardon(self._first)
        left = self._receipt.at + self._custody.options.ceiling - self._custody.clock()
        await self._receipt.queue.hide(self._receipt.message, max(0.0, min(delay, left - 1)))

    async def _is_spent(self, attempts: int) -> bool:
        policy = await self._home.redrive()
        return policy is not None and attempts >= policy.receives

    async def _bury(self, note: Note) -> None:
        await self._custody.graves.bury(self._home, self._first, note)
        await self._delete()

    async def _delete(self) -> None:
        await self._receipt.queue.delete(self._receipt.message)
