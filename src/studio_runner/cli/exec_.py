"""`studio-runner exec MESSAGE.json`."""

import asyncio
import signal
from typing import TYPE_CHECKING, BinaryIO

import click

from studio_runner.cli.options import with_settings
from studio_runner.cli.output import output_writer, safe
from studio_runner.config.settings import Settings

if TYPE_CHECKING:
    from studio_runner.runner.outcome import Outcome

TERMINATED = 128 + signal.SIGTERM


@click.command()
@click.argument("message", type=click.File("rb"))
@with_settings("places", "storage", "machine", "gpus", "experiments", "containers", "caches", "trust.encrypt_dir")
def command(settings: Settings, message: BinaryIO) -> int:
    """Run one request MESSAGE (a JSON file, or - for standard input) here and now, without a queue.

    Its output goes to standard output while it runs; the exit code is the script's. With --keep the experiment's
    directory stays for a look. Ctrl-C stops the experiment and delivers what it has.
    """
    try:
        outcome = asyncio.run(_execute(settings, message.read()))
    except asyncio.CancelledError:
        return TERMINATED
    click.echo(f"{outcome.reason}: {safe(outcome.sentence)}", err=True)
    if settings.experiments.keep:
        click.echo(f"The directory is kept under {settings.places.working_dir / 'experiments'}", err=True)
    return outcome.script_exit


async def _execute(settings: Settings, body: bytes) -> "Outcome":
    """SIGTERM does what Ctrl-C does anyway: it cancels."""
    from studio_runner.runner.direct import execute

    this = asyncio.current_task()
    assert this is not None  # noqa: S101  we are in it
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    return await execute(settings, body, on_output=output_writer())
