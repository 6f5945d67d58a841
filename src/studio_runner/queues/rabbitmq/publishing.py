"""Publishing requests as StudioML's clients do, so that their queues and ours are the same, and reports to them."""

from contextlib import suppress

from studio_runner.errors import BrokerError
from studio_runner.queues.rabbitmq.naming import EXCHANGE, QueueName
from studio_runner.queues.rabbitmq.press import Press
from studio_runner.queues.rabbitmq.trouble import ForbiddenError, MissingError, UnroutableError
from studio_runner.queues.rabbitmq.wire import Properties

KEPT = 14 * 24 * 3600
"""Seconds that a report waits for a reader: as long as SQS keeps anything."""

REQUEST = Properties(content_type="application/json", app_id="studioml", persistent=True)
REPORT = Properties(content_type="text/plain", app_id="studioml", persistent=True, expiration=str(KEPT * 1000))


async def publish(press: Press, queue: QueueName, body: bytes) -> None:
    """Return once the broker has the message in the queue, which is made if need be."""
    await create(press, queue)
    await _send(press, queue, body, REQUEST)


async def report(press: Press, queue: QueueName, text: bytes) -> bool:
    """The same with a report; False when there is no such queue."""
    try:
        await press.send(EXCHANGE, queue.routing_key, text, REPORT)
    except (MissingError, UnroutableError):
        if not await _exists(press, queue):
            return False
        await create(press, queue)  # it is there, and perhaps not bound
        await _send(press, queue, text, REPORT)
    return True


async def create(press: Press, queue: QueueName) -> None:
    """Make the queue, durable, if it is not there. One that is there may have been declared otherwise, and stays as
    it is."""
    if not await _exists(press, queue):
        async with press.channel() as channel:
            await channel.declare(queue.name)
    with suppress(ForbiddenError):  # whoever may not configure may still publish where all is set up
        await _route(press, queue)


async def _send(press: Press, queue: QueueName, body: bytes, properties: Properties) -> None:
    try:
        await press.send(EXCHANGE, queue.routing_key, body, properties)
    except (MissingError, UnroutableError) as error:
        raise BrokerError(
            f"queue {queue.name} of virtual host {queue.vhost} does not get what is published to {EXCHANGE}",
            hint=f"bind it with routing key {queue.routing_key}, or let the user configure and read it",
        ) from error


async def _exists(press: Press, queue: QueueName) -> bool:
    async with press.channel() as channel:
        try:
            await channel.count(queue.name)
        except MissingError:
            return False
        return True


async def _route(press: Press, queue: QueueName) -> None:
    async with press.channel() as channel:
        await channel.declare_exchange(EXCHANGE)
        await channel.bind(queue.name, EXCHANGE, queue.routing_key)
