"""`studio-runner requeue QUEUE [NAME]`."""

import asyncio

import click

from studio_runner.cli.complete import queue_names
from studio_runner.cli.options import json_option, with_settings
from studio_runner.cli.output import print_json
from studio_runner.config.settings import Settings
from studio_runner.errors import NotFoundError, UsageError


@click.command()
@click.argument("queue", shell_complete=queue_names)
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Put all of them back.")
@with_settings("places.queue_root")
@json_option
def command(settings: Settings, queue: str, name: str | None, *, everything: bool, as_json: bool) -> None:
    """Put the dead letter NAME, or --all dead letters, back on their QUEUE with a fresh number of tries.

    `studio-runner queues QUEUE` lists them.
    """
    if (name is None) != everything:
        raise UsageError(
            "Say which dead letter to put back: its NAME, or --all", hint=f"studio-runner queues {queue}"
        )
    count = asyncio.run(_revive(settings, queue, name))
    if not count and name is not None:
        raise NotFoundError(f"The queue {queue} has no dead letter {name!r}", hint=f"studio-runner queues {queue}")
    if as_json:
        print_json({"queue": queue, "requeued": count})
    else:
        click.echo(f"{count} {'message is' if count == 1 else 'messages are'} back on {queue}.")


async def _revive(settings: Settings, queue: str, name: str | None) -> int:
    from studio_runner.cli.broker import opened

    async with opened(settings, queue) as broker:
        return await broker.revive(queue, name)
