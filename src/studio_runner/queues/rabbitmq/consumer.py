"""One runner's way through one request queue. The policy is in docs/explanation/delivery.md.

While there are messages they are asked for one by one, each queue in its turn; an empty queue is listened to. A
queue whose messages do not fit is left alone until something was given back, or for a while.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator

from studio_runner.errors import BrokerError
from studio_runner.queues.base import Gate
from studio_runner.queues.rabbitmq.delivery import RabbitDelivery
from studio_runner.queues.rabbitmq.link import Session
from studio_runner.queues.rabbitmq.listening import Listener
from studio_runner.queues.rabbitmq.looking import DEEPER, DEEPEST, SHALLOW, Admitted, Look, look
from studio_runner.queues.rabbitmq.passport import Passport
from studio_runner.queues.rabbitmq.source import Source
from studio_runner.queues.rabbitmq.turns import Turns
from studio_runner.queues.waiting import first_of

log = logging.getLogger(__name__)

AFTER_TROUBLE = 0.5
REST = 10
"""A fruitless look is followed by a rest so many times as long, at least."""


class Consumer:
    """The deliveries of one queue to one gate."""

    def __init__(self, source: Source, gate: Gate, turns: Turns) -> None:
        self._source = source
        self._site = source.site
        self._gate = gate
        self._turns = turns
        self._depth = SHALLOW
        self._reach = 0
        self._poll = source.site.options.poll

    async def deliveries(self) -> AsyncGenerator[RabbitDelivery, None]:
        """For ever; ends only with its caller. Trouble with the broker is waited out."""
        try:
            while True:
                await self._gate.opened()
                try:
                    admitted = await self._next()
                    delivery = await self._delivery(admitted) if admitted else None
                except BrokerError as error:
                    log.debug("queue %s cannot be read now: %s", self._source.shown, error)
                    await asyncio.sleep(AFTER_TROUBLE)
                    continue
                if delivery is not None:
                    yield delivery
        finally:
            self._turns.forget(self._source.shown)

    async def _next(self) -> Admitted | None:
        """One message, or None when there is occasion to ask again."""
        session = await self._site.link.up()
        started, seen = time.monotonic(), self._gate.releases
        async with self._turns.turn(self._source.shown) as turn:
            await self._gate.opened()
            found = await self._site.errands.run(self._look(session), Look.give_back)
            turn.served = found.admitted is not None
        if found.awaited or found.admitted is None:
            self._reach = found.awaited
        if found.admitted is not None:
            self._depth = max(SHALLOW, 2 * found.refused, self._reach + SHALLOW if self._reach else 0)
            return found.admitted
        if not found.exists:
            await asyncio.sleep(self._poll)
            return None
        if found.refused:
            await self._rest(found, seen, time.monotonic() - started)
            return None
        return await self._listen(session)

    async def _look(self, session: Session) -> Look:
        return await look(self._source, session, self._gate, self._depth)

    async def _rest(self, found: Look, seen: int, cost: float) -> None:
        """Nothing fits now."""
        if found.refused >= self._depth:
            self._depth = min(DEEPER * self._depth, DEEPEST)
        await first_of(self._gate.released(seen), asyncio.sleep(max(self._poll, REST * cost)))

    async def _listen(self, session: Session) -> Admitted | None:
        queue = self._source.name.name
        listener = await self._site.errands.run(Listener.start(session, queue), Listener.discard)
        try:
            message = await listener.arrival()
        except asyncio.CancelledError:
            self._site.errands.start(listener.discard())
            raise
        self._site.errands.start(listener.stop())
        if message is None or await self._source.recognise(message):
            return None
        other = self._source.belongs_to_another(message, session)
        ticket = None if other else self._gate.admit(self._source.shown, message.body)
        if ticket is None:
            await self._source.leave(message)
            return None
        self._turns.serve(self._source.shown)
        return Admitted(message, ticket)

    async def _delivery(self, admitted: Admitted) -> RabbitDelivery | None:
        """The delivery; None when it was lost before it began."""
        message = admitted.message
        passport = Passport.of(message.properties.headers)
        delivery = RabbitDelivery(message, passport, admitted.ticket, self._source)
        self._source.add(delivery)
        if not message.redelivered and not passport.attempts:
            return delivery
        try:
            await delivery.secure()
        except asyncio.CancelledError:
            admitted.ticket.release()
            self._site.errands.start(delivery.hand_back())
            raise
        if delivery.is_attached:
            return delivery
        admitted.ticket.release()
        delivery.lose()
        return None
