"""`studio-runner show`."""

import asyncio
import time
from typing import TYPE_CHECKING

import click

from studio_runner.cli.experiments import key_argument, write_output
from studio_runner.cli.front import front_of
from studio_runner.cli.options import json_option, with_settings
from studio_runner.cli.output import print_fields, print_json, print_table, safe
from studio_runner.cli.session import Session
from studio_runner.config.settings import Settings

if TYPE_CHECKING:
    from studio_runner.client.holdings import Holdings
    from studio_runner.client.view import Details

SHOWN_LINES = 10
"""Lines of output that are shown of an experiment that failed."""


@click.command()
@key_argument
@json_option
@with_settings("places.home", "places.store", "storage")
@click.pass_obj
def command(session: Session, settings: Settings, /, key: str, *, as_json: bool) -> None:
    """Show everything about an experiment. KEY may be the beginning of its key, or `last`."""
    asyncio.run(_show(session, settings, key, as_json=as_json))


async def _show(session: Session, settings: Settings, key: str, *, as_json: bool) -> None:
    from studio_runner.client.artifact_files import stored
    from studio_runner.client.lookup import find_current
    from studio_runner.client.view import Details

    with front_of(session, settings) as front:
        async with front.opened_holdings() as holdings:
            record = await find_current(holdings, key)
            found = Details(record, await stored(record, holdings.opener))
            if as_json:
                print_json(session.masker().value(found.document()))
                return
            print_fields(session.masker().value(found.fields(time.time())))
            _print_attempts(found)
            _print_artifacts(found)
            if record.over and record.reason not in (None, "completed", "stopped"):
                await _print_tail(holdings, found)


def _print_attempts(found: "Details") -> None:
    """Where there was more than one."""
    rows = found.attempts()
    if len(rows) > 1:
        click.echo()
        print_table(("attempt", "host", "started", "ended", "reason"), rows, right=("attempt",))


def _print_artifacts(found: "Details") -> None:
    from studio_runner.messages.units import format_size

    rows = [(one.label, "-" if one.size is None else format_size(one.size), one.address) for one in found.artifacts]
    if rows:
        click.echo()
        print_table(("artifact", "size", "address"), rows, right=("size",))


async def _print_tail(holdings: "Holdings", found: "Details") -> None:
    from studio_runner.client.watch import write_stored

    click.echo(f"\nThe last lines of its output (all of it: studio-runner logs {safe(found.record.key)}):")
    await write_stored(holdings, found.record, write_output, SHOWN_LINES)
