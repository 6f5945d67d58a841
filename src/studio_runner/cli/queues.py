"""`studio-runner queues [QUEUE]`."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from studio_runner.cli.complete import queue_names
from studio_runner.cli.options import json_option, with_settings
from studio_runner.cli.output import print_json, print_table
from studio_runner.config.settings import QueueSettings, Settings

if TYPE_CHECKING:
    from studio_runner.queues.base import DeadLetter, QueueStatus


@click.command()
@click.argument("queue", required=False, shell_complete=queue_names)
@with_settings("places.queue_root", "queues.match", "queues.mismatch")
@json_option
def command(settings: Settings, queue: str | None, *, as_json: bool) -> None:
    """Show the queues and how much waits in each, or the dead letters of one QUEUE.

    A dead letter is a message that was set aside for a person: it could not be read, or was tried too often.
    """
    if queue is None:
        rows = [_row(status, settings.queues) for status in asyncio.run(_status(settings))]
        print_json(rows) if as_json else _print_queues(rows)
    else:
        letters = asyncio.run(_letters(settings, queue))
        print_json([_document(letter) for letter in letters]) if as_json else _print_letters(letters)


async def _status(settings: Settings) -> "list[QueueStatus]":
    from studio_runner.cli.broker import opened

    async with opened(settings) as broker:
        return [await broker.status(name) for name in sorted(await broker.queues())]


async def _letters(settings: Settings, queue: str) -> "Sequence[DeadLetter]":
    from studio_runner.cli.broker import opened

    async with opened(settings, queue) as broker:
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
        "experiment": _key(letter.body),
        "reason": letter.reason,
        "at": letter.at,
        "attempts": letter.attempts,
    }


def _print_letters(letters: "Sequence[DeadLetter]") -> None:
    if not letters:
        click.echo("It has no dead letters.")
        return
    rows = [
        (letter.name, f"{letter.at.astimezone():%Y-%m-%d %H:%M}", letter.attempts, _key(letter.body), letter.reason)
        for letter in letters
    ]
    print_table(("name", "since", "tried", "experiment", "reason"), rows, right=("tried",))


def _key(body: bytes) -> str:
    """The experiment's key, where there is one in whatever this is."""
    try:
        return str(json.loads(body)["experiment"]["key"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
