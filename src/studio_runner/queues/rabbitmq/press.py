"""Publishing, over a connection of its own: a broker that runs out of memory or disk stops listening to whoever
publishes, and settling messages must go on then."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from studio_runner.queues.rabbitmq.link import Caller
from studio_runner.queues.rabbitmq.options import Address
from studio_runner.queues.rabbitmq.trouble import BlockedError
from studio_runner.queues.rabbitmq.wire import Channel, Properties, Wire

PATIENCE = 30.0
"""Seconds for the broker to confirm, where somebody waits for it."""
BLOCKED = "takes no messages now, for want of memory or disk"


class Press:
    """Connects when there is something to publish."""

    def __init__(self, address: Address, caller: Caller) -> None:
        self._address = address
        self._caller = caller
        self._wire: Wire | None = None
        self._channels: dict[str, Channel] = {}
        """By exchange: what is refused at one costs nothing at another."""
        self._opening = asyncio.Lock()
        self.generation = 0
        """Grows with every connection."""

    async def publish(
        self, queue: str, body: bytes, properties: Properties, *, patience: float | None = PATIENCE
    ) -> None:
        """Put a message into `queue`; return once the broker has it. UnroutableError when there is no such queue,
        BlockedError when nothing was sent since the broker takes nothing. `patience` None waits as long as the
        connection stands."""
        await self._put("", queue, body, properties, patience)

    async def send(self, exchange: str, routing_key: str, body: bytes, properties: Properties) -> None:
        """The same by way of an exchange; MissingError when there is none of this name."""
        await self._put(exchange, routing_key, body, properties, PATIENCE)

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[Channel]:
        """For declaring: whatever is refused costs only this channel."""
        channel = await (await self._ready()).channel(confirms=True)
        try:
            yield channel
        finally:
            if channel.is_open:
                await channel.close()

    async def close(self) -> None:
        if self._wire is not None:
            await self._wire.close()

    async def _put(
        self, exchange: str, routing_key: str, body: bytes, properties: Properties, patience: float | None
    ) -> None:
        channel = await self._kept(exchange)
        try:
            await channel.publish(exchange, routing_key, body, properties, patience=patience)
        except BlockedError as error:
            raise self._blocked() from error

    async def _kept(self, exchange: str) -> Channel:
        wire = await self._ready()
        async with self._opening:
            channel = self._channels.get(exchange)
            if channel is None or not channel.is_open:
                channel = self._channels[exchange] = await wire.channel(confirms=True)
            return channel

    async def _ready(self) -> Wire:
        async with self._opening:
            if self._wire is None or not self._wire.is_open:
                self._wire = await self._connected(self._wire)
            if await self._wire.is_blocked():
                raise self._blocked()
            return self._wire

    async def _connected(self, former: Wire | None) -> Wire:
        if former is not None:
            await former.close()
        self._wire = None
        self._channels.clear()
        name = f"studio-runner {self._caller.owner} publishing"
        wire = await Wire.open(self._address, self._caller.context, name)
        self.generation += 1
        return wire

    def _blocked(self) -> BlockedError:
        self._caller.complaints.once(self._address, BLOCKED, "see its alarms; everything waits until they are over")
        return BlockedError(f"RabbitMQ at {self._address} {BLOCKED}")
