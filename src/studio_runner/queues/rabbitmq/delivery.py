"""A message in this runner's hands.

It is *fresh* while the original delivery from the request queue is held, *held* when it is a copy in the hold
queue, and *detached* while the broker does not count it as ours, since the connection broke.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import TYPE_CHECKING

from studio_runner.errors import BrokerError, LeaseLostError
from studio_runner.queues.base import Ticket
from studio_runner.queues.rabbitmq.holding import Grip
from studio_runner.queues.rabbitmq.link import Session
from studio_runner.queues.rabbitmq.parting import Parting
from studio_runner.queues.rabbitmq.passport import Passport, identity_of
from studio_runner.queues.rabbitmq.trouble import LinkLostError, UnroutableError
from studio_runner.queues.rabbitmq.wire import Channel, Message, Properties

if TYPE_CHECKING:
    from studio_runner.queues.rabbitmq.source import Source

log = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 3
CHEAP = 256 * 1024
"""Bytes; a larger message is renewed less often, in proportion."""
LONGEST_RENEWAL = 300.0
RENEWAL_PATIENCE = 3.0
"""Seconds to wait for a renewal that goes on in the background. Until it is done the former copy is ours."""
SETTLE_PATIENCE = 30.0
"""Seconds to wait for a connection when a message is to be settled."""


class RabbitDelivery:
    """See `queues.base.Delivery`."""

    def __init__(self, message: Message, passport: Passport, ticket: Ticket, source: "Source") -> None:
        self._message = message
        self._passport = passport
        self._had_before = message.redelivered or not passport.is_blank
        self._ticket = ticket
        self._source = source
        self._site = source.site
        self._grip: Grip | None = Grip(message.channel, message.tag, in_hold=False)
        self._own: Channel | None = None
        self._born_in = source.site.link.generation
        self._kept_at = 0.0
        self._keeping: asyncio.Task[None] | None = None
        self._settling = asyncio.Lock()
        self._ended: BrokerError | None = None

    # -- what it is ---------------------------------------------------------------------------------------------

    @property
    def body(self) -> bytes:
        return self._message.body

    @property
    def queue(self) -> str:
        return self._source.shown

    @property
    def attempts(self) -> int:
        return self._passport.attempts

    @property
    def redelivered(self) -> bool:
        return self._had_before

    @property
    def ticket(self) -> Ticket:
        return self._ticket

    @cached_property
    def identity(self) -> str:
        """The same for every copy of the message."""
        return self._passport.id or identity_of(self.body)

    @property
    def properties(self) -> Properties:
        return self._message.properties

    @property
    def passport(self) -> Passport:
        return self._passport

    @property
    def is_attached(self) -> bool:
        """The broker counts it as ours."""
        return self._grip is not None and self._grip.channel.is_open

    @property
    def ended(self) -> BrokerError | None:
        """What every further call gets."""
        return self._ended

    # -- the lease ----------------------------------------------------------------------------------------------

    async def extend(self) -> None:
        self._check_open()
        await self._site.errands.run(self._extended())

    async def secure(self) -> None:
        """Move a message at once that somebody may have died with, so that the next death is counted."""
        await self._site.errands.run(self._renewed())

    async def _extended(self) -> None:
        await self._source.look()
        if not self.is_attached:
            await self._source.find_again(self)
        await self._renewed()
        if not self.is_attached:
            self._check_open()
            raise BrokerError(
                f"a message of queue {self.queue} is out of reach: the connection to RabbitMQ broke",
                hint="it is looked for again soon",
            )

    async def _renewed(self) -> None:
        """Replace the copy when its time has come. What goes wrong does not matter while we have one."""
        if self._keeping is None and self._is_due():
            self._keeping = self._site.errands.start(self._source.hold.keep(self))
        if self._keeping is not None:
            await asyncio.wait([self._keeping], timeout=RENEWAL_PATIENCE)
            if self._keeping.done():
                self._note_renewal(self._keeping)
                self._keeping = None
        if self._grip is not None and self._grip.in_hold and self._site.link.is_up:
            await self._source.hold.touch(await self._site.link.up(0.0))

    def _note_renewal(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()):
            log.debug("a message of queue %s is not renewed now: %s", self.queue, error)

    def _is_due(self) -> bool:
        if self._source.hold.forbidden:
            return False
        if self._grip is None or not self._grip.in_hold:
            return True
        period = self._site.options.lease / RENEWALS_PER_LEASE
        pause = min(LONGEST_RENEWAL, period * (len(self.body) / CHEAP - 1))
        return time.monotonic() - self._kept_at >= pause

    # -- for the hold queue -------------------------------------------------------------------------------------

    def passport_for(self, owner: str) -> Passport:
        """Of a copy that is to be held."""
        if self._passport.holder != owner:
            self._passport = self._passport.held(self.identity, owner)
        return self._passport

    async def own_channel(self, session: Session) -> Channel:
        """One that breaks for nobody else's sake."""
        if self._own is None or not self._own.is_open:
            self._own = await session.wire.channel()
        return self._own

    async def swap(self, grip: Grip) -> None:
        """The broker has handed us a fresh copy: let go of the former one."""
        former, self._grip = self._grip, grip
        self._kept_at = time.monotonic()
        if self._ended is not None:
            former, self._grip = grip, None
        if former is not None and former.channel.is_open:
            await former.channel.ack(former.tag)
        if self._ended is not None and self._own is not None:
            await self._own.close()

    async def meet(self, message: Message, *, in_hold: bool) -> bool:
        """A copy of this message came. True when it is dealt with: ours again, or a second one that nobody needs;
        False when somebody else has had it meanwhile."""
        passport = Passport.of(message.properties.headers)
        if passport.is_newer_than(self._passport, self._site.owner):
            self.lose()
            return False
        if self.is_attached:
            if passport.is_blank and self._born_in == self._site.link.generation:
                return False  # no connection broke: somebody published the same twice
            await message.channel.ack(message.tag)
        else:
            log.info("message %s of queue %s is ours again", self.identity, self.queue)
            self._grip = Grip(message.channel, message.tag, in_hold)
            self._kept_at = time.monotonic()
        return True

    def lose(self) -> None:
        """Somebody else has it, or had it."""
        self._grip = None
        self._end(
            LeaseLostError(
                f"message {self.identity} of queue {self.queue} is no longer held by {self._site.owner}",
                hint="this runner was out of touch for longer than the lease; another one has the experiment",
            )
        )

    # -- settling -----------------------------------------------------------------------------------------------

    async def ack(self) -> None:
        await self._settle(self._acknowledged)

    async def requeue(self, delay: float = 0.0, *, charge: bool = True, reason: str = "") -> None:
        passport = self._passport
        if not charge and delay <= 0:
            await self._settle(self._handed_back)
            return

        async def requeued() -> None:
            copy = passport.returned(self.identity, reason, int(charge))
            await self._replaced(lambda: Parting(self._source.name, self._site).put_back(self, copy, delay))

        await self._settle(requeued)

    async def dead_letter(self, reason: str) -> None:
        async def buried() -> None:
            copy = self._passport.returned(self.identity, "", 1)
            await self._replaced(lambda: Parting(self._source.name, self._site).bury(self, copy, reason))

        await self._settle(buried)

    async def hand_back(self) -> None:
        """The runner ends with the message unsettled: somebody else shall have it, at no charge."""
        if self._ended is None:
            await self.requeue(charge=False)

    async def _settle(self, work: Callable[[], Awaitable[None]]) -> None:
        self._check_open()
        await self._site.errands.run(self._settled(work))

    async def _settled(self, work: Callable[[], Awaitable[None]]) -> None:
        async with self._settling:
            self._check_open()
            try:
                await work()
            except LeaseLostError:
                raise
            except BrokerError:
                await self._let_go()
                raise
            finally:
                self._end(BrokerError(f"a message of queue {self.queue} was settled already"))
                await self._close_own()

    async def _acknowledged(self) -> None:
        try:
            await self._regain()
        except LeaseLostError:
            raise
        except BrokerError:
            self._source.remember_done(self)  # should it come back here, it need not run again
            raise
        await self._drop_copy()

    async def _handed_back(self) -> None:
        await self._regain()
        grip = self._grip
        if grip is not None and not grip.in_hold:
            await grip.channel.nack(grip.tag)
            await grip.channel.barrier()
            self._grip = None
        else:
            copy = self._passport.returned(self.identity, "", 0)
            await self._replaced(lambda: Parting(self._source.name, self._site).put_back(self, copy, 0.0))

    async def _replaced(self, publish: Callable[[], Awaitable[None]]) -> None:
        """Put a copy elsewhere, then let go of ours: two for a moment, never none."""
        try:
            await self._regain()
        except LeaseLostError:
            raise
        except BrokerError:
            if self.properties.persistent:
                raise  # the broker has it somewhere
        try:
            await publish()
        except UnroutableError:
            log.warning("queue %s is gone: message %s goes with it", self.queue, self.identity)
        if self.is_attached:
            await self._drop_copy()

    async def _drop_copy(self) -> None:
        """When the connection breaks now the copy may come back: then it is dropped here, or whoever else gets it
        finds what became of the experiment."""
        grip, self._grip = self._grip, None
        if grip is None:
            return
        try:
            await grip.channel.ack(grip.tag)
            await grip.channel.barrier()
        except LinkLostError:
            self._source.remember_done(self)

    async def _regain(self) -> None:
        if not self.is_attached:
            await self._site.link.up(SETTLE_PATIENCE)
            await self._source.find(self)

    async def _let_go(self) -> None:
        """It could not be settled: it comes again by itself."""
        grip, self._grip = self._grip, None
        if grip is not None and grip.channel.is_open:
            await grip.channel.nack(grip.tag)

    async def _close_own(self) -> None:
        under_way = self._keeping is not None and not self._keeping.done()
        if not under_way and self._own is not None and self._own.is_open:
            await self._own.close()

    def _end(self, answer: BrokerError) -> None:
        if self._ended is None:
            self._ended = answer
            self._source.forget(self)

    def _check_open(self) -> None:
        if self._ended is not None:
            raise self._ended
