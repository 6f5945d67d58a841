"""What RabbitMQ lets this runner do, tried out. It leaves nothing behind."""

import asyncio
import secrets
from dataclasses import dataclass

from studio_runner.errors import BrokerError
from studio_runner.queues.rabbitmq.management import Management
from studio_runner.queues.rabbitmq.options import Address, RabbitOptions
from studio_runner.queues.rabbitmq.trouble import ForbiddenError
from studio_runner.queues.rabbitmq.wire import Wire

_EXPIRES = 60_000
"""Milliseconds after which RabbitMQ clears up a queue that the probe could not delete."""


@dataclass(frozen=True)
class Probe:
    """`trouble` is why there is no connection. `declares`: the user may declare queues, and without that leases
    cannot be handed over. `management` is what is the matter with the management API, None: it tells of the queues.
    `consumer_timeout` in seconds is the shortest that a policy sets; None: none does, and what the broker's own
    configuration says cannot be asked."""

    address: str
    trouble: BrokerError | None = None
    declares: bool = False
    management: BrokerError | None = None
    queues: int = 0
    consumer_timeout: float | None = None


async def probe(options: RabbitOptions) -> Probe:
    """Connect, declare a queue, ask the management API. ConfigError when the options cannot be used."""
    address = Address.parse(options.url)
    context = await asyncio.to_thread(options.tls.context) if address.scheme == "amqps" else None
    trouble, declares = None, False
    try:
        wire = await Wire.open(address, context, "studio-runner doctor")
        try:
            declares = await _declares(wire)
        finally:
            await wire.close()
    except BrokerError as error:
        trouble = error
    refusal, queues, timeout = await _managed(Management(address, options), address.vhost)
    return Probe(str(address), trouble, declares, refusal, queues, timeout)


async def _declares(wire: Wire) -> bool:
    channel = await wire.channel()
    name = f"studio-runner.doctor.{secrets.token_hex(8)}"
    try:
        await channel.declare(name, {"x-expires": _EXPIRES})
    except ForbiddenError:
        return False
    await channel.delete(name)
    return True


async def _managed(management: Management, vhost: str) -> tuple[BrokerError | None, int, float | None]:
    try:
        return None, len(await management.request_queues()), await management.consumer_timeout(vhost)
    except BrokerError as error:
        return error, 0, None
    finally:
        await management.close()
