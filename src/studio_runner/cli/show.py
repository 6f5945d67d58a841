"""`studio-runner show`."""

import asyncio
import time
from typing import TYPE_CHECKING

import click

from studio_runner.cli.experiments import key_argument, records_of, write_output
from studio_runner.cli.options import json_option, with_settings
from studio_runner.cli.output import print_fields, print_json, print_table
from studio_runner.cli.session import Session
from studio_runner.config.settings import Settings

if TYPE_CHECKING:
    from studio_runner.client.view import Details

SHOWN_LINES = 10
"""Lines of output that are shown of an experiment that failed."""


@click.command()
@key_argument
@json_option
@with_settings("places.home", "places.store")
@click.pass_obj
def command(session: Session, settings: Settings, /, key: str, *, as_json: bool) -> None:
    """Show everything about an experiment. KEY may be the beginning of its key, or `last`."""
    asyncio.run(_show(session, settings, key, as_json=as_json))


async def _show(session: Session, settings: Settings, key: str, *, as_json: bool) -> None:
    from studio_runner.client.artifact_files import stored
    from studio_runner.client.lookup import find
    from studio_runner.client.view import Details

    record = await find(records_of(session, settings), key)
    found = Details(record, await stored(record))
    if as_json:
        print_json(found.document())
        return
    print_fields(found.fields(time.time()))
    _print_artifacts(found)
    if record.over and record.reason not in (None, "completed", "stopped"):
        await _print_tail(found)


def _print_artifacts(found: "Details") -> None:
    from studio_runner.messages.units import format_size

    rows = [(one.label, "-" if one.size is None else format_size(one.size), one.address) for one in found.artifacts]
    if rows:
        click.echo()
        print_table(("artifact", "size", "address"), rows, right=("size",))


async def _print_tail(found: "Details") -> None:
    from studio_runner.client.watch import write_stored

    click.echo(f"\nThe last lines of its output (all of it: studio-runner logs {found.record.key}):")
    await write_stored(found.record, write_output, SHOWN_LINES)
