"""What the commands about queues share: the brokers that a person means, and the queue that is named."""

import difflib
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from studio_runner.config.settings import Settings
from studio_runner.errors import BrokerError, NotFoundError, UsageError

if TYPE_CHECKING:
    from studio_runner.config.studioml import StudioConfig
    from studio_runner.queues.base import KeptBroker

REMOTE = {"rmq": "RabbitMQ", "sqs": "SQS"}
"""Kinds of queues that are not on this machine, by the beginning of their names."""

_MISSING = {
    "rmq": "Say where: --amqp-url, the variable AMQP_URL, or cloud.queue.rmq of the StudioML configuration",
    "sqs": "Say where: --sqs-region, --sqs-certs, --sqs-endpoint, or cloud.queue.sqs of the StudioML configuration",
}


@contextmanager
def with_brokers(settings: Settings, config: "StudioConfig") -> Iterator[Settings]:
    """The settings, with the brokers of the StudioML configuration where they name none themselves."""
    queues = settings.queues
    if not queues.amqp_url and (url := config.cloud_queue.get("rmq")):
        queues = replace(queues, amqp_url=str(url))
    with TemporaryDirectory(prefix="studio-runner-") as place:
        if not (queues.sqs_certs or queues.sqs_region) and (aws := _aws(config)) is not None:
            region = str(aws.get("region") or aws.get("region_name") or "")
            certs = _write_credentials(Path(place), aws) if aws.get("access_key") else None
            queues = replace(queues, sqs_region=region, sqs_certs=certs)
        yield replace(settings, queues=queues)


def broker_for(queue: str, settings: Settings) -> "KeptBroker":
    """The broker that has a queue of this name; UsageError when nobody said where it is."""
    from studio_runner.queues.registry import broker_of, kind_of

    kind = queue.partition("_")[0]
    root = settings.places.queue_root
    if kind in REMOTE and kind_of(queue, settings.queues) != kind and not (root / queue).is_dir():
        raise UsageError(f"The queue {queue} is one of {REMOTE[kind]}, and none is configured", hint=_MISSING[kind])
    return broker_of(queue, settings.queues, root)


@asynccontextmanager
async def opened_queue(queue: str, settings: Settings) -> AsyncIterator["KeptBroker"]:
    """The broker of a queue that there is; NotFoundError when there is none."""
    async with broker_for(queue, settings) as broker:
        if not await broker.exists(queue):
            raise _unknown(queue, await _known(broker), settings)
        yield broker


class Withdrawals:
    """Takes messages off whatever broker has their queue."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def withdraw(self, queue: str, name: str) -> bool:
        """BrokerError when nobody said where that queue is: the message may well wait there."""
        try:
            broker = broker_for(queue, self._settings)
        except UsageError as error:
            raise BrokerError(str(error), hint=error.hint) from error
        async with broker:
            return await broker.withdraw(queue, name)


async def _known(broker: "KeptBroker") -> Sequence[str]:
    try:
        return await broker.queues()
    except BrokerError:  # it could be asked for the one, and cannot tell of all
        return ()


def _unknown(queue: str, known: Sequence[str], settings: Settings) -> NotFoundError:
    from studio_runner.queues.registry import kind_of

    near = difflib.get_close_matches(queue, known, n=3)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`studio-runner queues` lists them."
    place = REMOTE.get(kind_of(queue, settings.queues), f"{settings.places.queue_root}")
    where = f"in {place}" if place in REMOTE.values() else f"under {place}"
    return NotFoundError(f"There is no queue {queue!r} {where}", hint=hint)


def _aws(config: "StudioConfig") -> "dict[str, object] | None":
    """What the StudioML configuration says about SQS, if anything."""
    section = config.cloud_queue.get("sqs")
    credentials = section.get("credentials") if isinstance(section, dict) else None
    aws = credentials.get("aws") if isinstance(credentials, dict) else None
    return aws if isinstance(aws, dict) else None


def _write_credentials(directory: Path, aws: "dict[str, object]") -> Path:
    """A directory as `--sqs-certs` takes it, which only this user can read and which goes with the command."""
    names = {
        "aws_access_key_id": aws.get("access_key"),
        "aws_secret_access_key": aws.get("secret_access_key") or aws.get("secret_key"),
        "aws_session_token": aws.get("session_token"),
        "region": aws.get("region") or aws.get("region_name"),
    }
    lines = ["[default]", *(f"{name} = {value}" for name, value in names.items() if value), ""]
    descriptor = os.open(directory / "credentials", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write("\n".join(lines))
    return directory
