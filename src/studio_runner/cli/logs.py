"""`studio-runner logs`."""

import asyncio

import click

from studio_runner.cli.experiments import exit_code, key_argument, say, write_output
from studio_runner.cli.front import front_of
from studio_runner.cli.options import with_settings
from studio_runner.cli.session import Session
from studio_runner.config.settings import Settings


@click.command()
@key_argument
@click.option(
    "--follow", "-f", is_flag=True, help="Go on until the experiment is over; exit with 1 unless it completed."
)
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines (and what follows).")
@with_settings("places.home", "places.store", "storage")
@click.pass_obj
def command(session: Session, settings: Settings, /, key: str, tail: int | None, *, follow: bool) -> int:
    """Print the output of an experiment: live where it runs on this machine, else as far as it is stored."""
    return asyncio.run((_follow if follow else _print)(session, settings, key, tail))


async def _print(session: Session, settings: Settings, key: str, tail: int | None) -> int:
    from studio_runner.client.lookup import find_current
    from studio_runner.client.view import status
    from studio_runner.client.watch import live_output, write_live, write_stored

    with front_of(session, settings) as front:
        async with front.opened_holdings() as holdings:
            record = await find_current(holdings, key)
            if path := live_output(record):
                await write_live(holdings, path, write_output, tail)
            elif not await write_stored(holdings, record, write_output, tail):
                say(f"Experiment {record.key} has no output yet ({status(record)}).")
    return 0


async def _follow(session: Session, settings: Settings, key: str, tail: int | None) -> int:
    from studio_runner.client.lookup import find_current
    from studio_runner.client.watch import follow_output

    with front_of(session, settings) as front:
        async with front.opened_holdings() as holdings:
            record = await find_current(holdings, key)
            return exit_code(await follow_output(holdings, record.key, write_output, tail))
