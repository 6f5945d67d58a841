"""One request queue as this runner knows it: what it holds of it, and whether the queue is still there."""

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from studio_runner.errors import BrokerError, QueueDeletedError
from studio_runner.queues.rabbitmq.delivery import RabbitDelivery
from studio_runner.queues.rabbitmq.holding import Hold
from studio_runner.queues.rabbitmq.link import Session
from studio_runner.queues.rabbitmq.naming import QueueName
from studio_runner.queues.rabbitmq.parting import Parting
from studio_runner.queues.rabbitmq.passport import Passport, identity_of
from studio_runner.queues.rabbitmq.site import Site
from studio_runner.queues.rabbitmq.wire import Message

log = logging.getLogger(__name__)

SEEK = 256
"""Messages looked through for those that were ours before the connection broke."""
SEEK_BYTES = 64 * 1024 * 1024
REMEMBERED = 1000
MOST_RETURNS = 10
"""RabbitMQ 4 drops a message of a quorum queue after 20, unless told otherwise."""
STATISTICS = 8.0
"""Seconds by which the broker's statistics may lag."""


class Source:
    """Knows the deliveries of its queue from when they are taken until they are settled."""

    def __init__(self, name: QueueName, shown: str, site: Site) -> None:
        self.name = name
        self.shown = shown
        self.site = site
        self.hold = Hold(name, site, self)
        self._live: set[RabbitDelivery] = set()
        self._counts: deque[tuple[float, int]] = deque()
        self._done: OrderedDict[str, int] = OrderedDict()
        self._finding = asyncio.Lock()
        self._sought = float("-inf")
        self._seen_in = 0
        self._gone_since: float | None = None

    # -- what is held -------------------------------------------------------------------------------------------

    @property
    def held(self) -> list[RabbitDelivery]:
        return list(self._live)

    @property
    def held_lately(self) -> int:
        """The most that was held at one time, as far back as the broker's statistics may be."""
        limit = time.monotonic() - STATISTICS
        return max([len(self._live), *(count for at, count in self._counts if at >= limit)])

    def add(self, delivery: RabbitDelivery) -> None:
        self._live.add(delivery)

    def forget(self, delivery: RabbitDelivery) -> None:
        """It was settled, or lost."""
        limit = time.monotonic() - STATISTICS
        while self._counts and self._counts[0][0] < limit:
            self._counts.popleft()
        self._counts.append((time.monotonic(), len(self._live)))
        self._live.discard(delivery)

    def remember_done(self, delivery: RabbitDelivery) -> None:
        """It is over, and the broker may not know."""
        self._done[delivery.identity] = delivery.passport.turn
        if len(self._done) > REMEMBERED:
            self._done.popitem(last=False)

    async def recognise(self, message: Message, *, in_hold: bool = False) -> bool:
        if not self._live and not self._done:
            return False
        passport = Passport.of(message.properties.headers)
        if passport.is_blank and not message.redelivered and not self._misses_some():
            return False
        identity = passport.id or identity_of(message.body)
        same = [delivery for delivery in self._live if delivery.identity == identity]
        if same:
            return await min(same, key=lambda found: found.is_attached).meet(message, in_hold=in_hold)
        if passport.turn <= self._done.get(identity, -1) and passport.holder in ("", self.site.owner):
            await message.channel.ack(message.tag)
            return True
        return False

    def belongs_to_another(self, message: Message, session: Session) -> bool:
        """Whether the message is to be left for whoever had it when the connections of all broke: for one lease."""
        if session.generation == 1 or time.monotonic() - session.since > self.site.options.lease:
            return False
        passport = Passport.of(message.properties.headers)
        if passport.is_blank:
            return message.redelivered
        return passport.deaths > 0 and passport.holder not in ("", self.site.owner)

    async def leave(self, message: Message) -> None:
        """Put a message back where it was. A quorum queue counts that, and drops a message at some count: then it
        is put in anew, at the end."""
        returns = message.properties.headers.get("x-delivery-count")
        if not isinstance(returns, int) or returns < MOST_RETURNS:
            await message.channel.nack(message.tag)
            return
        passport = Passport.of(message.properties.headers)
        copy = passport.returned(passport.id or identity_of(message.body), "", 0)
        await Parting(self.name, self.site).put_back(message, copy, 0.0)
        await message.channel.ack(message.tag)

    # -- finding it again ---------------------------------------------------------------------------------------

    async def welcome(self, session: Session) -> None:
        """The connection is there again. A broker that was killed may not have kept all that it was told: of a
        message that we hold there may be an older copy."""
        if self._live or self._done:
            await self.hold.reclaim(session)
            await self._seek(session, lambda: False)

    async def find(self, delivery: RabbitDelivery) -> None:
        """Get `delivery` back from the broker; LeaseLostError when somebody else has had it, BrokerError when it is
        nowhere to be seen."""
        session = await self.site.link.up(0.0)
        async with self._finding:
            if not delivery.is_attached and delivery.ended is None:
                await self._search(session)
        if delivery.ended is not None:
            raise delivery.ended
        if not delivery.is_attached:
            raise BrokerError(
                f"message {delivery.identity} of queue {self.shown} is not to be found since the connection broke",
                hint="another runner may have it; of two results only one will count",
            )

    async def find_again(self, delivery: RabbitDelivery) -> None:
        """The same, though not at every call: it disturbs the queue."""
        if time.monotonic() - self._sought >= self.site.options.lease:
            await self.find(delivery)

    async def _search(self, session: Session) -> None:
        self._sought = time.monotonic()
        await self.hold.reclaim(session)
        await self._seek(session, lambda: not self._misses_some())

    async def _seek(self, session: Session, enough: Callable[[], bool]) -> None:
        """Look through the queue, and leave it as it was."""
        if not await session.count(self.name.name):
            return
        channel = await session.wire.channel()
        others: list[Message] = []
        size = 0
        try:
            while not enough() and len(others) < SEEK and size < SEEK_BYTES:
                message = await channel.get(self.name.name)
                if message is None:
                    break
                if not await self.recognise(message):
                    others.append(message)
                    size += len(message.body)
        finally:
            if channel.is_open:
                for message in others:
                    await self.leave(message)

    def _misses_some(self) -> bool:
        return any(not delivery.is_attached for delivery in self._live)

    # -- whether the queue is there -----------------------------------------------------------------------------

    async def look(self) -> None:
        """QueueDeletedError when the queue has been gone for the cool-down; BrokerError when nobody knows."""
        session = await self.site.link.up(0.0)
        self.note(session, exists=await session.count(self.name.name) is not None)
        if self._gone_since is not None and time.monotonic() - self._gone_since >= self.site.options.cool_down:
            raise QueueDeletedError(
                f"queue {self.shown} was deleted", hint="deleting a queue stops its experiments"
            )

    def note(self, session: Session, *, exists: bool) -> None:
        """What was seen in this session. A queue that vanished together with the connection was lost by the broker
        (it was not durable): its experiments go on."""
        if exists:
            self._seen_in, self._gone_since = session.generation, None
        elif self._seen_in == session.generation and self._gone_since is None:
            self._gone_since = time.monotonic()
