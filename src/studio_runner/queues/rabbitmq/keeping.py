"""What people do with a queue: count it, read its dead letters, put them back, withdraw an experiment."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from studio_runner.errors import BrokerError
from studio_runner.messages.naming import is_called
from studio_runner.queues.base import DeadLetter, QueueStatus
from studio_runner.queues.rabbitmq.link import Session
from studio_runner.queues.rabbitmq.management import Management
from studio_runner.queues.rabbitmq.naming import DELAYS
from studio_runner.queues.rabbitmq.parting import Parting, dead_letter
from studio_runner.queues.rabbitmq.passport import Passport
from studio_runner.queues.rabbitmq.source import Source
from studio_runner.queues.rabbitmq.trouble import MismatchError, UnroutableError
from studio_runner.queues.rabbitmq.wire import Channel, Message

MOST = 100_000
"""Messages that are looked through for one experiment."""


@dataclass(frozen=True)
class Keeper:
    """Of one queue."""

    source: Source
    session: Session
    management: Management | None

    async def status(self) -> QueueStatus:
        name = self.source.name
        delayed = [await self._count(queue) for queue in await self._delay_queues()]
        return QueueStatus(
            name=self.source.shown,
            waiting=await self._count(name.name),
            claimed=await self._claimed(),
            delayed=sum(delayed),
            dead=await self._count(name.dead),
        )

    async def dead_letters(self) -> Sequence[DeadLetter]:
        """Oldest death first."""
        async with self._taken(self.source.name.dead, MOST) as messages:
            found = [dead_letter(self.source.shown, message) async for message in messages]
        return sorted(found, key=lambda letter: (letter.at, letter.name))

    async def revive(self, name: str | None) -> int:
        revived = 0
        async with self._taken(self.source.name.dead, MOST) as messages:
            async for message in messages:
                if name in (None, dead_letter(self.source.shown, message).name):
                    await self._put_back(message)
                    await message.channel.ack(message.tag)
                    revived += 1
        return revived

    async def withdraw(self, name: str) -> bool:
        for queue in [self.source.name.name, *await self._delay_queues()]:
            async with self._taken(queue, MOST) as messages:
                async for message in messages:
                    if is_called(message.body, name):
                        await message.channel.ack(message.tag)
                        return True
        return False

    async def remove(self) -> bool:
        """Delete the queue if nothing is in it and nobody listens to it."""
        if self.source.held or await self._count(self.source.name.name):
            return False
        channel = await self.session.wire.channel()
        try:
            await channel.delete(self.source.name.name)
        except MismatchError:
            return False
        await channel.close()
        return True

    async def _count(self, queue: str) -> int:
        return await self.session.count(queue) or 0

    async def _delay_queues(self) -> list[str]:
        """Those that exist, if somebody can tell; else all that there may be."""
        name = self.source.name
        known = await self._ask(name.delays)
        if known is None:
            return [name.delayed(seconds) for seconds in DELAYS]
        return [queue for queue in map(name.delayed, DELAYS) if queue in known]

    async def _claimed(self) -> int:
        """Ours, and what the broker's statistics, which are some seconds old, say of others."""
        name = self.source.name
        own = len(self.source.held)
        fresh, held = await self._ask(name.name), await self._ask(name.holds)
        if fresh is None or held is None:
            return own
        total = fresh.get(name.name, (0, 0))[1] + sum(sum(counts) for counts in held.values())
        return own + max(0, total - self.source.held_lately)

    async def _ask(self, beginning: str) -> "dict[str, tuple[int, int]] | None":
        if self.management is None:
            return None
        try:
            return dict(await self.management.depths(self.source.name.vhost, beginning))
        except BrokerError:
            return None  # the rest can be told without it

    async def _put_back(self, message: Message) -> None:
        passport = replace(Passport.of(message.properties.headers), attempts=0)
        try:
            fresh = passport.returned(passport.id, "", 0)
            await Parting(self.source.name, self.source.site).put_back(message, fresh, 0.0)
        except UnroutableError as error:
            raise BrokerError(
                f"queue {self.source.shown} does not exist: its dead letters stay where they are",
                hint="create it by submitting to it, then try again",
            ) from error

    @asynccontextmanager
    async def _taken(self, queue: str, most: int) -> AsyncIterator[AsyncIterator[Message]]:
        """Every message of a queue, oldest first. Those that are not settled meanwhile go back to their places."""
        if not await self.session.count(queue):
            yield _none()
            return
        channel = await self.session.wire.channel()
        try:
            yield _each(channel, queue, most)
        finally:
            # Whatever is unsettled, in the order it had.
            if channel.is_open:
                await channel.nack_all()
                await channel.barrier()
                await channel.close()


async def _none() -> AsyncIterator[Message]:
    return
    yield  # an asynchronous generator of nothing


async def _each(channel: Channel, queue: str, most: int) -> AsyncIterator[Message]:
    for _ in range(most):
        message = await channel.get(queue)
        if message is None:
            return
        yield message
