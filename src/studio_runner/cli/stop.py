"""`studio-runner stop`."""

import asyncio

import click

from studio_runner.cli.experiments import key_argument, opened_broker, records_of
from studio_runner.cli.options import json_option, with_settings
from studio_runner.cli.output import print_json
from studio_runner.cli.session import Session
from studio_runner.config.settings import Settings


@click.command()
@key_argument
@click.option("--wait", is_flag=True, help="Wait until it is over.")
@json_option
@with_settings("places.home", "places.queue_root", "places.store")
@click.pass_obj
def command(session: Session, settings: Settings, /, key: str, *, wait: bool, as_json: bool) -> None:
    """Stop an experiment: take it off its queue, or ask its runner to stop it. What it made so far is kept."""
    asyncio.run(_stop(session, settings, key, wait=wait, as_json=as_json))


async def _stop(session: Session, settings: Settings, key: str, *, wait: bool, as_json: bool) -> None:
    from studio_runner.client import watch
    from studio_runner.client.lookup import find
    from studio_runner.client.stop import Stopped, stop

    records = records_of(session, settings)
    async with opened_broker(settings) as broker:
        record = await find(records, key)
        result = await stop(record, records, broker)
    if wait:
        record = await watch.wait(records, record.key)
    if as_json:
        print_json({"key": record.key, "result": result})
        return
    told = {
        Stopped.WITHDRAWN: "was waiting and is off its queue.",
        Stopped.ASKED: "is stopped." if wait else "is being stopped; `studio-runner show` says when it has.",
        Stopped.OVER: f"is over already ({record.reason or record.status}).",
    }
    click.echo(f"Experiment {record.key} {told[result]}")
