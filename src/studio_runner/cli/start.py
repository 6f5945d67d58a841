"""`studio-runner start`."""

import asyncio
import logging

import click

from studio_runner.cli.options import with_settings
from studio_runner.cli.session import Session
from studio_runner.config.settings import Settings

log = logging.getLogger(__name__)

GROUPS = ("places", "queues", "machine", "limits", "experiments", "caches", "http", "log")


@click.command()
@with_settings(*GROUPS, level="info")
@click.pass_obj
def command(session: Session, settings: Settings) -> None:
    """Run experiments from the queues, several at once, until told otherwise.

    SIGTERM or Ctrl-C: take nothing new, finish what runs. A second one: stop the experiments as well; they go back
    to their queues.
    """
    from studio_runner.runner.daemon import serve

    for note in session.configuration().notes:
        log.warning(note)
    tally = asyncio.run(serve(settings))
    ends = ", ".join(f"{count} {reason}" for reason, count in tally.by_reason.items())
    log.info("%d experiments started%s", tally.started, f": {ends}" if ends else "")
