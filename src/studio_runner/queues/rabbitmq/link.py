"""The connection of one runner to one virtual host, made again whenever it breaks, and the channels that its
consumers share."""

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from studio_runner.errors import BrokerError
from studio_runner.queues.complaints import Complaints
from studio_runner.queues.rabbitmq.options import Address
from studio_runner.queues.rabbitmq.trouble import LinkLostError, MissingError
from studio_runner.queues.rabbitmq.wire import Channel, Wire

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 3.0
"""Well below the time that held copies stay with a runner which is gone."""
LISTENERS_PER_CHANNEL = 64


@dataclass(frozen=True)
class Caller:
    """Who connects, and how."""

    owner: str
    context: ssl.SSLContext | None
    complaints: Complaints


class Session:
    """One connection while it lasts. Channels are opened when they are first needed, and again when they broke."""

    def __init__(self, wire: Wire, generation: int) -> None:
        self.wire = wire
        self.generation = generation
        self.since = time.monotonic()
        self._probe: Channel | None = None
        self._asking: Channel | None = None
        self._listening: list[tuple[Channel, set[str]]] = []
        self._probing, self._opening = asyncio.Lock(), asyncio.Lock()

    async def count(self, queue: str) -> int | None:
        """Messages of `queue` that are ready; None when there is no such queue. (A channel of its own: asking for a
        queue that is not there closes it.)"""
        async with self._probing:
            if self._probe is None or not self._probe.is_open:
                self._probe = await self.wire.channel()
            try:
                return await self._probe.count(queue)
            except MissingError:
                return None

    async def asking(self) -> Channel:
        """For taking messages one by one."""
        async with self._opening:
            if self._asking is None or not self._asking.is_open:
                self._asking = await self.wire.channel()
            return self._asking

    async def listening(self, tag: str) -> Channel:
        """For one more consumer, called `tag`, which `unlisten` takes off again."""
        async with self._opening:
            for channel, tags in self._listening:
                if channel.is_open and len(tags) < LISTENERS_PER_CHANNEL:
                    tags.add(tag)
                    return channel
            self._listening = [(channel, tags) for channel, tags in self._listening if channel.is_open]
            channel = await self.wire.channel()
            await channel.prefetch(1)
            self._listening.append((channel, {tag}))
            return channel

    def unlisten(self, tag: str) -> None:
        for _, tags in self._listening:
            tags.discard(tag)


class Link:
    """Connects in the background for as long as its task runs."""

    def __init__(self, address: Address, caller: Caller, welcome: Callable[[Session], Awaitable[None]]) -> None:
        self.address = address
        self._caller = caller
        self._welcome = welcome
        """Awaited with every new session before anybody else gets it."""
        self._session: Session | None = None
        self._changed = asyncio.Condition()
        self.generation = 0
        """Grows with every connection."""
        self._tried = asyncio.Event()
        self.problem: BrokerError | None = None
        """Why there is no connection."""

    @property
    def is_up(self) -> bool:
        return self._session is not None and self._session.wire.is_open

    async def up(self, patience: float | None = None) -> Session:
        """The session, as soon as there is one; after `patience` seconds the BrokerError that says why not."""
        if self._session is not None and self._session.wire.is_open:
            return self._session
        try:
            async with asyncio.timeout(patience), self._changed:
                while True:
                    if self._session is not None and self._session.wire.is_open:
                        return self._session
                    await self._changed.wait()
        except TimeoutError:
            raise self.why_down() from None

    async def tried(self) -> Session:
        """The session, or why there is none: as soon as the first attempt to connect has ended."""
        await self._tried.wait()
        if self._session is not None and self._session.wire.is_open:
            return self._session
        if self.problem is None:  # it broke a moment ago
            return await self.up(1.0)
        raise self.problem

    def why_down(self) -> BrokerError:
        return self.problem or LinkLostError(f"there is no connection to RabbitMQ at {self.address}")

    async def run(self) -> None:
        """For ever."""
        pause = FIRST_PAUSE
        while True:
            try:
                lasted = await self._connected()
            except BrokerError as error:
                lasted = 0.0
                await self._set(None, error)
                self._caller.complaints.once(self.address, str(error), error.hint or "it is tried again")
            pause = FIRST_PAUSE if lasted > LONGEST_PAUSE else min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  no secret

    async def _connected(self) -> float:
        """Connect, and return how long it lasted when it is over."""
        wire = await Wire.open(self.address, self._caller.context, f"studio-runner {self._caller.owner}")
        try:
            self.generation += 1
            session = Session(wire, self.generation)
            await self._welcome(session)
            await self._set(session, None)
            self._caller.complaints.settled(self.address)
            log.info("connected to RabbitMQ at %s", self.address)
            await wire.lost()
            log.warning("lost the connection to RabbitMQ at %s: connecting again", self.address)
            await self._set(None, None)
            return time.monotonic() - session.since
        finally:
            await wire.close()

    async def _set(self, session: Session | None, problem: BrokerError | None) -> None:
        async with self._changed:
            self._session, self.problem = session, problem
            if session is not None or problem is not None:
                self._tried.set()
            self._changed.notify_all()
