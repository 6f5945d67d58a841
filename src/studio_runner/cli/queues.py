"""`studio-runner queues [QUEUE]`."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from studio_runner.cli.broker import opened_queue
from studio_runner.cli.complete import queue_names
from studio_runner.cli.experiments import BROKERS
from studio_runner.cli.front import front_of
from studio_runner.cli.options import json_option, with_settings
from studio_runner.cli.output import print_json, print_table, tell
from studio_runner.cli.session import Session
from studio_runner.config.settings import QueueSettings, Settings
from studio_runner.errors import BrokerError, ExitCode, NotFoundError
from studio_runner.messages.naming import name_of

if TYPE_CHECKING:
    from studio_runner.queues.base import DeadLetter, KeptBroker, QueueStatus


@click.command()
@click.argument("queue", required=False, shell_complete=queue_names)
@with_settings("places.home", "places.queue_root", "queues.match", "queues.mismatch", *BROKERS)
@json_option
@click.pass_obj
def command(session: Session, settings: Settings, /, queue: str | None, *, as_json: bool) -> int:
    """Show the queues and how much waits in each, or the dead letters of one QUEUE.

    A dead letter is a message that was set aside for a person: it could not be read, or was tried too often.
    """
    if queue is not None:
        letters = asyncio.run(_letters(session, settings, queue))
        print_json([_document(letter) for letter in letters]) if as_json else _print_letters(letters)
        return ExitCode.DONE
    statuses, troubles = asyncio.run(_all(session, settings))
    rows = [_row(status, settings.queues) for status in statuses]
    if as_json:
        print_json(rows)
    elif rows or not troubles:
        _print_queues(rows)
    for trouble in troubles:
        tell(trouble)
    return ExitCode.INFRASTRUCTURE if troubles else ExitCode.DONE


async def _all(session: Session, settings: Settings) -> "tuple[list[QueueStatus], list[BrokerError]]":
    """The queues of the brokers that answer, and what is the matter with the others."""
    from studio_runner.queues.registry import opened_brokers

    with front_of(session, settings) as front:
        queues = front.settings.queues
        async with opened_brokers(queues, settings.places.queue_root) as brokers:
            answers = await asyncio.gather(*map(_statuses, brokers))
    found = [status for answer in answers if isinstance(answer, list) for status in answer]
    return sorted(found, key=lambda status: status.name), [one for one in answers if isinstance(one, BrokerError)]


async def _statuses(broker: "KeptBroker") -> "list[QueueStatus] | BrokerError":
    found = []
    try:
        for name in await broker.queues():
            with suppress(NotFoundError):  # deleted meanwhile
                found.append(await broker.status(name))
    except BrokerError as error:
        return error
    return found


async def _letters(session: Session, settings: Settings, queue: str) -> "Sequence[DeadLetter]":
    with front_of(session, settings) as front:
        async with opened_queue(queue, front.settings) as broker:
            return await broker.dead_letters(queue)


def _row(status: "QueueStatus", settings: QueueSettings) -> dict[str, object]:
    return {**asdict(status), "served": settings.serves(status.name)}


def _print_queues(rows: list[dict[str, object]]) -> None:
    if not rows:
        click.echo("There are no queues.")
        return
    numbers = ("waiting", "claimed", "delayed", "dead")
    shown = [(row["name"], *(row[column] for column in numbers), "yes" if row["served"] else "no") for row in rows]
    print_table(("name", *numbers, "served"), shown, right=numbers)


def _document(letter: "DeadLetter") -> dict[str, object]:
    """Without the body: it may hold credentials."""
    return {
        "queue": letter.queue,
        "name": letter.name,
        "experiment": name_of(letter.body),
        "reason": letter.reason,
        "at": letter.at,
        "attempts": letter.attempts,
    }


def _print_letters(letters: "Sequence[DeadLetter]") -> None:
    if not letters:
        click.echo("It has no dead letters.")
        return
    rows = [
        (
            letter.name,
            f"{letter.at.astimezone():%Y-%m-%d %H:%M}",
            letter.attempts,
            name_of(letter.body),
            letter.reason,
        )
        for letter in letters
    ]
    print_table(("name", "since", "tried", "experiment", "reason"), rows, right=("tried",))
