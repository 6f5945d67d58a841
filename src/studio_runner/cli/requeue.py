"""`studio-runner requeue QUEUE [NAME]`."""

import asyncio

import click

from studio_runner.cli.broker import opened_queue
from studio_runner.cli.complete import queue_names
from studio_runner.cli.experiments import BROKERS
from studio_runner.cli.front import front_of
from studio_runner.cli.options import json_option, with_settings
from studio_runner.cli.output import print_json
from studio_runner.cli.session import Session
from studio_runner.config.settings import Settings
from studio_runner.errors import NotFoundError, UsageError


@click.command()
@click.argument("queue", shell_complete=queue_names)
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Put all of them back.")
@with_settings("places.home", "places.queue_root", *BROKERS)
@json_option
@click.pass_obj
def command(
    session: Session, settings: Settings, /, *, everything: bool, as_json: bool, **named: str | None
) -> None:
    """Put the dead letter NAME, or --all dead letters, back on their QUEUE with a fresh number of tries.

    `studio-runner queues QUEUE` lists them.
    """
    queue, name = str(named["queue"]), named["name"]
    if (name is None) != everything:
        raise UsageError(
            "Say which dead letter to put back: its NAME, or --all", hint=f"studio-runner queues {queue}"
        )
    count = asyncio.run(_revive(session, settings, queue, name))
    if not count and name is not None:
        raise NotFoundError(f"The queue {queue} has no dead letter {name!r}", hint=f"studio-runner queues {queue}")
    if as_json:
        print_json({"queue": queue, "requeued": count})
    else:
        click.echo(f"{count} {'message is' if count == 1 else 'messages are'} back on {queue}.")


async def _revive(session: Session, settings: Settings, queue: str, name: str | None) -> int:
    with front_of(session, settings) as front:
        async with opened_queue(queue, front.settings) as broker:
            return await broker.revive(queue, name)
