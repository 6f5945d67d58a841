"""Which broker has a queue. A new one is one function and one line here."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from studio_runner.config.settings import QueueSettings
from studio_runner.queues.base import KeptBroker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def _local(settings: QueueSettings, root: Path, runner: str) -> KeptBroker:
    from studio_runner.queues.local import LocalBroker, LocalQueueOptions  # noqa: PLC0415 - loads what it needs

    named = {"runner_id": runner} if runner else {}
    return LocalBroker(root, LocalQueueOptions(settings.lease, settings.poll, **named))


def _rabbitmq(settings: QueueSettings, _root: Path, runner: str) -> KeptBroker:
    from studio_runner.queues.rabbitmq import RabbitBroker  # noqa: PLC0415

    return RabbitBroker.of(settings, runner)


def _sqs(settings: QueueSettings, _root: Path, runner: str) -> KeptBroker:
    from studio_runner.queues.sqs import SqsBroker  # noqa: PLC0415

    return SqsBroker.of(settings, runner)


_BROKERS: dict[str, Callable[[QueueSettings, Path, str], KeptBroker]] = {
    "local": _local,
    "rmq": _rabbitmq,
    "sqs": _sqs,
}
"""By the beginning of the names of their queues."""


def kinds_of(settings: QueueSettings) -> Sequence[str]:
    """The kinds of queues that the settings speak of; directories always are."""
    used = {"local": True, "rmq": bool(settings.amqp_url), "sqs": settings.uses_sqs}
    return [kind for kind in _BROKERS if used[kind]]


def kind_of(queue: str, settings: QueueSettings) -> str:
    """The kind of a queue: by its name where the settings speak of such a broker, else it is a directory."""
    named = queue.partition("_")[0]
    return named if named in kinds_of(settings) else "local"


def broker_of(queue: str, settings: QueueSettings, root: Path, runner: str = "") -> KeptBroker:
    """The broker that has `queue`, to be entered with `async with`. `root` has a directory for every queue of this
    machine, `runner` is the id of this runner where it is one."""
    return _BROKERS[kind_of(queue, settings)](settings, root, runner)


def broker_among(brokers: Sequence[KeptBroker], queue: str, settings: QueueSettings) -> KeptBroker:
    """The one of `opened_brokers` that has `queue`."""
    return brokers[kinds_of(settings).index(kind_of(queue, settings))]


@asynccontextmanager
async def opened_brokers(
    settings: QueueSettings, root: Path, runner: str = ""
) -> "AsyncIterator[Sequence[KeptBroker]]":
    """Every broker that the settings speak of, in the order of `kinds_of`."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(_BROKERS[kind](settings, root, runner)) for kind in kinds_of(settings)
        ]
