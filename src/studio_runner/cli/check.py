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
from studio_runner.errors import ExitCode, InvalidMessageError


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
    body = message.read()
    session.secrets.learn(_secrets(body))
    found = asyncio.run(_examined(body, Here(settings, session.environ), queue))
    findings = [finding.shown(session.masker()) for finding in found]
    runs = all(finding.state is not State.PROBLEM for finding in findings)
    if as_json:
        print_json({"runs": runs, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            click.echo(str(finding))
        click.echo("\nThe runner would run it." if runs else "\nThe runner would not run it.")
    return ExitCode.DONE if runs else ExitCode.FAILED


def _secrets(body: bytes) -> frozenset[str]:
    from studio_runner.messages.credentials import secrets_of
    from studio_runner.messages.request import parse_request
    from studio_runner.messages.salvage import salvaged

    try:
        return secrets_of(parse_request(body))
    except InvalidMessageError:
        return salvaged(body).secrets


async def _examined(body: bytes, here: Here, queue: str) -> list[Finding]:
    from studio_runner.cli.checkup.message import examine

    return [finding async for finding in examine(body, here, queue)]
