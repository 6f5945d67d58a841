"""`studio-runner list`."""

import asyncio
import time
from typing import TYPE_CHECKING, Any

import click

from studio_runner.cli.complete import queue_names
from studio_runner.cli.front import front_of
from studio_runner.cli.options import json_option, with_settings
from studio_runner.cli.output import print_json, print_table
from studio_runner.cli.session import Session
from studio_runner.config.settings import Settings

if TYPE_CHECKING:
    from studio_runner.client.view import Summary

COLUMNS = ("key", "status", "reason", "queue", "age", "duration", "script")


@click.command()
@click.option(
    "--status", type=click.Choice(["waiting", "running", "stopping", "finished", "stopped"]), help="Only those."
)
@click.option("--project", metavar="NAME", help="Only those of this project.")
@click.option("--queue", "-q", metavar="NAME", shell_complete=queue_names, help="Only those of this queue.")
@click.option("-n", "count", type=click.IntRange(min=0), default=20, show_default=True, help="How many; 0: all.")
@json_option
@with_settings("places.home", "places.store", "storage")
@click.pass_obj
def command(session: Session, settings: Settings, /, count: int, *, as_json: bool, **wanted: str | None) -> None:
    """List experiments, newest first."""
    found = asyncio.run(_listed(session, settings, wanted))
    hide = session.masker().value
    shown = found[: count or None]
    if as_json:
        print_json([hide(summary.document()) for summary in shown])
    elif shown:
        print_table(COLUMNS, [hide(_row(summary)) for summary in shown], right=("age", "duration"))
        if len(found) > len(shown):
            click.echo(f"{len(found) - len(shown)} more: list -n 0 shows all.", err=True)
    else:
        click.echo(
            "There are no such experiments." if any(wanted.values()) else "There are no experiments yet.", err=True
        )


async def _listed(session: Session, settings: Settings, wanted: "dict[str, str | None]") -> "list[Summary]":
    from studio_runner.client.view import summaries

    with front_of(session, settings) as front:
        async with front.opened_holdings() as holdings:
            return await summaries(holdings, wanted, time.time())


def _row(summary: "Summary") -> tuple[Any, ...]:
    from studio_runner.messages.units import format_duration

    times = (format_duration(value) if value is not None else "" for value in (summary.age, summary.duration))
    return (summary.key, summary.status, summary.reason or summary.stage, summary.queue, *times, summary.script)
