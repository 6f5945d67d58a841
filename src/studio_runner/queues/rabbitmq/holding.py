"""The hold queue: where the broker keeps the messages of one request queue that this runner works on.

No delivery may be held for long (`consumer_timeout`), so each is replaced by a fresh copy of itself again and
again. A copy that nobody holds, since the runner died, expires and goes back to the request queue; the broker
counts that.
"""

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from studio_runner.queues.rabbitmq.link import Session
from studio_runner.queues.rabbitmq.naming import QueueName
from studio_runner.queues.rabbitmq.passport import Passport
from studio_runner.queues.rabbitmq.site import Site
from studio_runner.queues.rabbitmq.trouble import ForbiddenError, LinkLostError, MismatchError, UnroutableError
from studio_runner.queues.rabbitmq.wire import Channel, Message

if TYPE_CHECKING:
    from studio_runner.queues.rabbitmq.delivery import RabbitDelivery

log = logging.getLogger(__name__)

EXPIRES = 3600
"""Seconds without use after which the broker deletes a hold queue; much longer than a copy stays in it."""


@dataclass(frozen=True)
class Grip:
    """A copy of a message that the broker has handed to us."""

    channel: Channel
    tag: int
    in_hold: bool


class Recogniser(Protocol):
    """Knows the messages that this runner works on."""

    async def recognise(self, message: Message, *, in_hold: bool = False) -> bool:
        """Whether the message is one of them, or was, and is dealt with."""
        ...


class Hold:
    """One for each request queue."""

    def __init__(self, queue: QueueName, site: Site, known: Recogniser) -> None:
        self.name = queue.held_by(site.owner)
        self.forbidden = False
        """The user may not declare queues: originals are held instead."""
        self._queue = queue
        self._site = site
        self._known = known
        self._lock = asyncio.Lock()
        self._declared = False

    async def keep(self, delivery: "RabbitDelivery") -> None:
        """Put a fresh copy of the delivery in, take it out, and let go of the former one."""
        async with self._lock:
            passport = delivery.passport_for(self._site.owner)
            try:
                await self._publish(delivery, passport)
            except ForbiddenError as error:
                self._give_up(str(error))
                return
            session = await self._site.link.up(0.0)
            channel = await delivery.own_channel(session)
            grip = await self._collect(channel, passport.id)
        await delivery.swap(grip)

    async def reclaim(self, session: Session) -> None:
        """After a lost connection: take back what is still there."""
        if not self._declared:
            return
        async with self._lock:
            if await session.count(self.name) is None:
                self._declared = False
                return
            channel = await session.wire.channel()
            strangers = [
                message
                for message in await _all(channel, self.name)
                if not await self._known.recognise(message, in_hold=True)
            ]
            for message in strangers:
                await channel.nack(message.tag)

    async def touch(self, session: Session) -> None:
        """Keep the queue from expiring while copies cannot be renewed."""
        await session.count(self.name)

    async def leave(self, session: Session) -> None:
        """The runner ends: nobody needs the queue, if nothing is in it."""
        if self._declared:
            channel = await session.wire.channel()
            try:
                await channel.delete(self.name)
            except MismatchError:
                log.info("%s has messages yet: they go back to their queue when their time is over", self.name)

    async def _publish(self, delivery: "RabbitDelivery", passport: Passport) -> None:
        properties = delivery.properties
        properties = replace(properties, headers=passport.headers(properties.headers))
        press = self._site.press
        if not self._declared:
            await self._declare()
        try:
            await press.publish(self.name, delivery.body, properties, patience=None)
        except UnroutableError:  # somebody deleted it
            await self._declare()
            await press.publish(self.name, delivery.body, properties, patience=None)

    async def _declare(self) -> None:
        arguments = {
            "x-queue-type": "classic",
            "x-message-ttl": round(self._site.options.time_to_live * 1000),
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self._queue.name,
            "x-expires": EXPIRES * 1000,
        }
        async with self._site.press.channel() as channel:
            await channel.declare(self.name, arguments)
        self._declared = True

    async def _collect(self, channel: Channel, identity: str) -> Grip:
        """Take out the copy that was just put in. Others can only be left from exchanges that broke off."""
        strangers: list[Message] = []
        try:
            while (message := await channel.get(self.name)) is not None:
                if Passport.of(message.properties.headers).id == identity:
                    return Grip(channel, message.tag, in_hold=True)
                if not await self._known.recognise(message, in_hold=True):
                    strangers.append(message)
        finally:
            if channel.is_open:
                for message in strangers:
                    await channel.nack(message.tag)
        raise LinkLostError(f"a message that was put into {self.name} is not there")

    def _give_up(self, why: str) -> None:
        self.forbidden = True
        self._site.complaints.once(
            self._site.link.address,
            f"the user may not declare or use queues {self._queue.holds}* ({why})",
            "messages are held as they are: with experiments that last longer than the broker's consumer_timeout "
            "they may be delivered twice, and deaths of runners are not counted; "
            "let the user configure, write and read ^studio-runner\\.",
        )


async def _all(channel: Channel, queue: str) -> list[Message]:
    found: list[Message] = []
    while (message := await channel.get(queue)) is not None:
        found.append(message)
    return found
