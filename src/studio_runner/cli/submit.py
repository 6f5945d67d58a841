"""`studio-runner submit`."""

import asyncio
from typing import TYPE_CHECKING, Any

import click

from studio_runner.cli.experiments import (
    BROKERS,
    PLACES,
    SCRIPT_CONTEXT,
    busy,
    exit_code,
    experiment_options,
    order_of,
    say,
    script_arguments,
    write_output,
)
from studio_runner.cli.front import front_of
from studio_runner.cli.options import json_option, with_settings
from studio_runner.cli.session import Session
from studio_runner.config.settings import Settings
from studio_runner.errors import UsageError

if TYPE_CHECKING:
    from studio_runner.reports.records import Records


@click.command(context_settings=SCRIPT_CONTEXT)
@click.option("--queue", "-q", metavar="NAME", help="Queue to put it on [default: local_default].")
@experiment_options
@click.option("--follow", is_flag=True, help="Print the output while it runs, and wait for the end.")
@click.option("--wait", is_flag=True, help="Wait for the end; exit with 1 unless it completed.")
@json_option
@with_settings(*PLACES, *BROKERS, "storage")
@script_arguments
@click.pass_obj
def command(
    session: Session, settings: Settings, /, script: str | None, args: tuple[str, ...], **chosen: Any
) -> int:
    """Package this directory and queue SCRIPT as an experiment for a runner (`studio-runner start`).

    Prints the experiment's key. SCRIPT is a file of this directory, or pkg::module. What follows it goes to the
    script. Files named in .studioml_ignore stay behind.
    """
    if chosen["follow"] and chosen["as_json"]:
        raise UsageError("--follow prints the script's output, --json prints JSON: choose one")
    return asyncio.run(_submit(session, settings, (script, args), chosen))


async def _submit(
    session: Session, settings: Settings, call: tuple[str | None, tuple[str, ...]], chosen: dict[str, Any]
) -> int:
    from studio_runner.cli.output import print_json
    from studio_runner.client.submit import submit
    from studio_runner.client.watch import follow_output, wait

    order = order_of(*call, chosen)
    with front_of(session, settings) as front:
        queue = front.queue_name(chosen["queue"])
        async with front.opened_desk(queue, say) as desk:
            with busy("packaging"):
                keys = await submit(order, queue, desk)
            if not chosen["as_json"]:
                click.echo("\n".join(keys), err=chosen["follow"])
            codes = []
            for key in keys if chosen["follow"] or chosen["wait"] else ():
                record = await (
                    follow_output(desk.holdings, key, write_output)
                    if chosen["follow"]
                    else wait(desk.holdings, key)
                )
                codes.append(exit_code(record))
            if chosen["as_json"]:
                print_json([await _described(desk.records, key) for key in keys])
    return max(codes, default=0)


async def _described(records: "Records", key: str) -> dict[str, Any]:
    from studio_runner.client.lookup import find

    record = await find(records, key)
    return {"key": key, "queue": record.own.get("queue"), "status": record.status, "reason": record.reason}
