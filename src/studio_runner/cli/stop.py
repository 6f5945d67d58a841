"""`studio-runner stop`."""

import asyncio
from typing import TYPE_CHECKING

import click

from studio_runner.cli.broker import Withdrawals
from studio_runner.cli.experiments import BROKERS, PLACES, key_argument
from studio_runner.cli.front import front_of
from studio_runner.cli.options import json_option, with_settings
from studio_runner.cli.output import print_json, safe
from studio_runner.cli.session import Session
from studio_runner.config.settings import Settings

if TYPE_CHECKING:
    from studio_runner.reports.records import Record


@click.command()
@key_argument
@click.option("--wait", is_flag=True, help="Wait until it is over.")
@json_option
@with_settings(*PLACES, *BROKERS, "storage")
@click.pass_obj
def command(session: Session, settings: Settings, /, key: str, *, wait: bool, as_json: bool) -> None:
    """Stop an experiment: take it off its queue, or ask its runner to stop it. What it made so far is kept."""
    asyncio.run(_stop(session, settings, key, wait=wait, as_json=as_json))


async def _stop(session: Session, settings: Settings, key: str, *, wait: bool, as_json: bool) -> None:
    from studio_runner.client import watch
    from studio_runner.client.lookup import find_current
    from studio_runner.client.stop import Stopped, stop

    with front_of(session, settings) as front:
        async with front.opened_holdings() as holdings:
            record = await find_current(holdings, key)
            result = await stop(record, holdings.records, Withdrawals(front.settings), holdings.opener)
            if wait:
                record = await watch.wait(holdings, record.key)
    if as_json:
        print_json({"key": record.key, "result": result})
        return
    told = {
        Stopped.WITHDRAWN: "was waiting and is off its queue.",
        Stopped.ASKED: "is stopped." if wait else _asked(record),
        Stopped.OVER: f"is over already ({record.reason or record.status}).",
    }
    click.echo(safe(f"Experiment {record.key} {told[result]}"))


def _asked(record: "Record") -> str:
    if record.status == "running":
        return "is being stopped; `studio-runner show` says when it has."
    return "is to be stopped, by the runner that has it or will take it; `studio-runner show` says when it has."
