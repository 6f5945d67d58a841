"""RabbitMQ as a place with queues. How it works there, and why, is in docs/reference/rabbitmq.md."""

import asyncio
import logging
import secrets
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self
from weakref import WeakKeyDictionary

from studio_runner.config.settings import QueueSettings
from studio_runner.errors import BrokerError
from studio_runner.queues.base import DeadLetter, Gate, QueueStatus
from studio_runner.queues.complaints import Complaints
from studio_runner.queues.rabbitmq.consumer import Consumer
from studio_runner.queues.rabbitmq.delivery import RabbitDelivery
from studio_runner.queues.rabbitmq.errands import Errands
from studio_runner.queues.rabbitmq.keeping import Keeper
from studio_runner.queues.rabbitmq.link import Caller, Link, Session
from studio_runner.queues.rabbitmq.management import Management, NoManagementError
from studio_runner.queues.rabbitmq.naming import QueueName
from studio_runner.queues.rabbitmq.options import Address, RabbitOptions
from studio_runner.queues.rabbitmq.press import Press
from studio_runner.queues.rabbitmq.publishing import create, publish, report
from studio_runner.queues.rabbitmq.site import Site
from studio_runner.queues.rabbitmq.source import Source
from studio_runner.queues.rabbitmq.turns import Turns

log = logging.getLogger(__name__)

FAREWELL = 10.0
"""Seconds for giving back what is held when the runner ends."""


class RabbitBroker:
    """Opening it does nothing; it connects to a virtual host when something there is first asked for."""

    def __init__(self, options: RabbitOptions, runner: str = "") -> None:
        self._options = options
        self._home = Address.parse(options.url)
        self._owner = f"{runner or 'client'}.{secrets.token_hex(4)}"
        self._complaints = Complaints(log)
        self._errands = Errands()
        self._management = None if options.queues else Management(self._home, options)
        self._sites: dict[str, Site] = {}
        self._sources: dict[QueueName, Source] = {}
        self._turns: WeakKeyDictionary[Gate, Turns] = WeakKeyDictionary()
        self._reported: Sequence[str] = ()
        self._connecting: list[asyncio.Task[None]] = []
        self._stack = AsyncExitStack()
        self._context: ssl.SSLContext | None = None

    @classmethod
    def of(cls, settings: QueueSettings, runner: str) -> Self:
        return cls(RabbitOptions.of(settings), runner)

    async def __aenter__(self) -> Self:
        if self._home.scheme == "amqps":
            self._context = await asyncio.to_thread(self._options.tls.context)
        if self._management is not None:
            self._stack.push_async_callback(self._management.close)
        self._group = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._stack.push_async_callback(self._leave)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The stack is not told of the error: a task group would wrap it in a group.
        await self._stack.aclose()

    # -- Broker -------------------------------------------------------------------------------------------------

    async def queues(self) -> Sequence[str]:
        """BrokerError when RabbitMQ, or its management API, cannot be asked; the next call may."""
        await self._site(self._home.vhost).link.tried()
        self._reported = await self._names()
        return self._reported

    async def changed(self) -> None:
        """Return once there are other queues than `queues` returned last."""
        while True:
            await asyncio.sleep(self._options.poll)
            try:
                if await self._names() != self._reported:
                    return
            except BrokerError as error:
                log.debug("the queues are not known now: %s", error)

    def consume(self, queue: str, gate: Gate) -> AsyncGenerator[RabbitDelivery, None]:
        """Also for a queue that does not exist yet: its first message is delivered when it comes."""
        turns = self._turns.setdefault(gate, Turns())
        return Consumer(self._source(queue), gate, turns).deliveries()

    async def publish(self, queue: str, body: bytes) -> None:
        source = self._source(queue)
        await self._errands.run(publish(source.site.press, source.name, body))

    async def report(self, queue: str, text: bytes) -> bool:
        source = self._source(queue)
        return await self._errands.run(report(source.site.press, source.name, text))

    async def exists(self, queue: str) -> bool:
        source = self._source(queue)
        session = await source.site.link.tried()
        return await self._errands.run(session.count(source.name.name)) is not None

    # -- QueueKeeper --------------------------------------------------------------------------------------------

    async def create(self, queue: str) -> None:
        source = self._source(queue)
        await self._errands.run(create(source.site.press, source.name))

    async def status(self, queue: str) -> QueueStatus:
        return await self._errands.run((await self._keeper(queue)).status())

    async def dead_letters(self, queue: str) -> Sequence[DeadLetter]:
        return await self._errands.run((await self._keeper(queue)).dead_letters())

    async def revive(self, queue: str, name: str | None = None) -> int:
        return await self._errands.run((await self._keeper(queue)).revive(name))

    async def withdraw(self, queue: str, name: str) -> bool:
        return await self._errands.run((await self._keeper(queue)).withdraw(name))

    async def remove(self, queue: str) -> bool:
        """Delete a queue in which nothing waits and to which nobody listens; False when not. Dead letters stay."""
        return await self._errands.run((await self._keeper(queue)).remove())

    async def _keeper(self, queue: str) -> Keeper:
        source = self._source(queue)
        return Keeper(source, await source.site.link.tried(), self._management)

    # -- parts --------------------------------------------------------------------------------------------------

    async def _names(self) -> list[str]:
        if self._management is None:
            return await self._configured()
        try:
            found = await self._management.request_queues()
        except NoManagementError as error:
            raise BrokerError(f"the queues of RabbitMQ are not known: {error}", hint=error.hint) from error
        return sorted(name.shown(self._home.vhost) for name in found)

    async def _configured(self) -> list[str]:
        return [queue for queue in self._options.queues if await self.exists(queue)]

    def _source(self, queue: str) -> Source:
        name = QueueName.parse(queue, self._home.vhost)
        if name not in self._sources:
            self._sources[name] = Source(name, name.shown(self._home.vhost), self._site(name.vhost))
        return self._sources[name]

    def _site(self, vhost: str) -> Site:
        if vhost not in self._sites:
            address = replace(self._home, vhost=vhost)
            caller = Caller(self._owner, self._context, self._complaints)
            link, press = Link(address, caller, self._welcome(vhost)), Press(address, caller)
            self._sites[vhost] = Site(self._owner, self._options, self._complaints, self._errands, link, press)
            self._connecting.append(self._group.create_task(link.run(), name=f"RabbitMQ {address}"))
        return self._sites[vhost]

    def _welcome(self, vhost: str) -> "_Welcome":
        return _Welcome(vhost, self._sources)

    # -- the end ------------------------------------------------------------------------------------------------

    async def _leave(self) -> None:
        """Give back what is held, then say goodbye."""
        try:
            async with asyncio.timeout(FAREWELL):
                await self._hand_back()
        except TimeoutError:
            log.warning("RabbitMQ does not take back what is held: it does when it finds this runner gone")
        await self._errands.close(FAREWELL)
        for site in self._sites.values():
            await site.press.close()
        for task in self._connecting:
            task.cancel()

    async def _hand_back(self) -> None:
        for source in self._sources.values():
            try:
                for delivery in source.held:
                    await delivery.hand_back()
                if source.site.link.is_up:
                    await self._errands.run(source.hold.leave(await source.site.link.up(0.0)))
            except BrokerError as error:
                log.warning("messages of queue %s come back later: %s", source.shown, error)


class _Welcome:
    """Tells the queues of one virtual host of a new connection."""

    def __init__(self, vhost: str, sources: dict[QueueName, Source]) -> None:
        self._vhost, self._sources = vhost, sources

    async def __call__(self, session: Session) -> None:
        for name, source in list(self._sources.items()):
            if name.vhost == self._vhost:
                await self._tell(source, session)

    async def _tell(self, source: Source, session: Session) -> None:
        try:
            await source.welcome(session)
        except BrokerError as error:
            if not session.wire.is_open:
                raise
            log.warning("what was held of queue %s cannot be looked for: %s", source.shown, error)
