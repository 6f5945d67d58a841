"""The brokers that the settings, or the StudioML configuration, speak of."""

import asyncio
from collections.abc import Iterator

from studio_runner.cli.checkup.finding import Finding, Here, ok, problem, warning
from studio_runner.errors import StudioRunnerError
from studio_runner.messages.units import format_duration

RENEWALS = 3
"""Times that a lease is renewed in its own length; what holds a message is a third of it at most."""


def rabbitmq(here: Here) -> Iterator[Finding]:
    """The queues and the management API are two doors with two locks."""
    if not here.settings.queues.amqp_url:
        return
    from studio_runner.queues.rabbitmq.options import RabbitOptions
    from studio_runner.queues.rabbitmq.probe import probe

    found = asyncio.run(probe(RabbitOptions.of(here.settings.queues)))
    if found.trouble is not None:
        yield problem("RabbitMQ", str(found.trouble), found.trouble.hint or "")
    else:
        yield ok("RabbitMQ", f"{found.address} lets us in")
        yield _leases(here, declares=found.declares, timeout=found.consumer_timeout)
    named = here.settings.queues.amqp_queues
    if named:
        yield ok("RabbitMQ queues", f"{len(named)} are named by --amqp-queues")
    elif found.management is not None:
        yield problem("RabbitMQ queues", str(found.management), found.management.hint or "")
    else:
        yield ok("RabbitMQ queues", f"the management API tells of {found.queues}")


def _leases(here: Here, *, declares: bool, timeout: float | None) -> Finding:
    """A delivery must not be held for longer than the broker's consumer_timeout."""
    period = here.settings.queues.lease / RENEWALS
    limit = format_duration(timeout) if timeout else "30m unless RabbitMQ is configured otherwise"
    if not declares:
        return warning(
            "RabbitMQ leases",
            "this user may not declare queues: what runs for longer than consumer_timeout "
            f"({limit}) is delivered again, and adopted where it runs",
            "Give the user the right to configure queues named studio-runner.* (rabbitmqctl set_permissions).",
        )
    if timeout and timeout < 2 * period:
        return problem(
            "RabbitMQ leases",
            f"consumer_timeout is {limit}, and leases are renewed every {format_duration(period)}",
            f"Raise consumer_timeout in the policy, or set --lease to {format_duration(timeout)} or less.",
        )
    return ok("RabbitMQ leases", f"renewed every {format_duration(period)}; consumer_timeout is {limit}")


def sqs(here: Here) -> Iterator[Finding]:
    """Whether the queues can be listed with the credentials that there are."""
    queues = here.settings.queues
    if not queues.uses_sqs:
        return
    try:
        names = asyncio.run(_sqs_queues(here))
    except StudioRunnerError as error:
        yield problem("SQS", str(error), error.hint or "")
        return
    sentence = f"{len(names)} queues whose names begin with {queues.sqs_prefix}"
    if names:
        yield ok("SQS", sentence)
    else:
        yield warning(
            "SQS", sentence, "Check the region and --sqs-prefix, or submit something: that makes the queue."
        )


async def _sqs_queues(here: Here) -> list[str]:
    from studio_runner.queues.sqs import SqsBroker

    async with SqsBroker.of(here.settings.queues, "doctor") as broker:
        return list(await broker.queues())
