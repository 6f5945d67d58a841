"""`studio-runner rerun`."""

import asyncio
from typing import Any

import click

from studio_runner.cli.broker import broker_for
from studio_runner.cli.experiments import BROKERS, PLACES, exit_code, key_argument, say, write_output
from studio_runner.cli.front import front_of
from studio_runner.cli.options import json_option, with_settings
from studio_runner.cli.output import print_json
from studio_runner.cli.session import Session
from studio_runner.config.settings import Settings
from studio_runner.errors import UsageError


@click.command()
@key_argument
@click.option("--queue", "-q", metavar="NAME", help="Queue to put it on [default: the one it was on].")
@click.option("--experiment", "-e", metavar="KEY", help="Key of the new experiment; otherwise one is made.")
@click.option("--follow", is_flag=True, help="Print the output while it runs, and wait for the end.")
@click.option("--wait", is_flag=True, help="Wait for the end; exit with 1 unless it completed.")
@json_option
@with_settings(*PLACES, *BROKERS, "storage")
@click.pass_obj
def command(session: Session, settings: Settings, /, key: str, **chosen: Any) -> int:
    """Queue an experiment again, with the same code and requirements, under a new key, which is printed."""
    if chosen["follow"] and chosen["as_json"]:
        raise UsageError("--follow prints the script's output, --json prints JSON: choose one")
    return asyncio.run(_rerun(session, settings, key, chosen))


async def _rerun(session: Session, settings: Settings, key: str, chosen: dict[str, Any]) -> int:
    from studio_runner.client import watch
    from studio_runner.client.lookup import find_current
    from studio_runner.client.rerun import request_again
    from studio_runner.client.submit import publish, read_back

    with front_of(session, settings) as front:
        post = front.post(say)
        async with front.opened_holdings() as holdings:
            record = await find_current(holdings, key)
            queue = front.queue_name(chosen["queue"], record.own.get("queue"))
            request = request_again(record, chosen["experiment"], holdings.config, holdings.stores)
            async with broker_for(queue, front.settings) as broker:
                desk = front.desk(holdings, broker, say, post)
                fresh = await publish(read_back(request), queue, desk)
            if chosen["as_json"]:
                print_json({"key": fresh, "queue": queue})
            else:
                click.echo(fresh, err=chosen["follow"])
            if chosen["follow"]:
                return exit_code(await watch.follow_output(holdings, fresh, write_output))
            return exit_code(await watch.wait(holdings, fresh)) if chosen["wait"] else 0
