"""`studio-runner exec MESSAGE.json`."""

import asyncio
from typing import BinaryIO

import click

from studio_runner.cli.options import with_settings
from studio_runner.cli.output import output_writer, safe
from studio_runner.config.settings import Settings


@click.command()
@click.argument("message", type=click.File("rb"))
@with_settings("places", "machine", "experiments", "caches")
def command(settings: Settings, message: BinaryIO) -> int:
    """Run one request MESSAGE (a JSON file, or - for standard input) here and now, without a queue.

    Its output goes to standard output while it runs; the exit code is the script's. With --keep the experiment's
    directory stays for a look.
    """
    from studio_runner.runner.direct import execute

    outcome = asyncio.run(execute(settings, message.read(), on_output=output_writer()))
    click.echo(f"{outcome.reason}: {safe(outcome.sentence)}", err=True)
    if settings.experiments.keep:
        click.echo(f"The directory is kept under {settings.places.working_dir / 'experiments'}", err=True)
    return outcome.script_exit
