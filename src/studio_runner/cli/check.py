"""`studio-runner check MESSAGE.json`."""

import asyncio
from dataclasses import asdict
from typing import BinaryIO

import click

from studio_runner.cli.checkup.finding import Finding, Here, State
from studio_runner.cli.options import json_option, with_settings
from studio_runner.cli.output import print_json
from studio_runner.cli.session import Session
from studio_runner.config.settings import Settings
from studio_runner.errors import ExitCode


@click.command()
@click.argument("message", type=click.File("rb"))
@click.option(
    "--queue", default="", metavar="NAME", help="The queue that it is to come from: who must have signed?"
)
@with_settings("places", "machine", "gpus", "storage", "containers", "trust")
@json_option
@click.pass_obj
def command(session: Session, settings: Settings, message: BinaryIO, queue: str, *, as_json: bool) -> int:
    """Say what the runner would make of a request MESSAGE (a JSON file, or - for standard input).

    Exits with 1 when it would not run it to the end of the script.
    """
    findings = asyncio.run(_examined(message.read(), Here(settings, session.environ), queue))
    runs = all(finding.state is not State.PROBLEM for finding in findings)
    if as_json:
        print_json({"runs": runs, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            click.echo(str(finding))
        click.echo("\nThe runner would run it." if runs else "\nThe runner would not run it.")
    return ExitCode.DONE if runs else ExitCode.FAILED


async def _examined(body: bytes, here: Here, queue: str) -> list[Finding]:
    from studio_runner.cli.checkup.message import examine

    return [finding async for finding in examine(body, here, queue)]
