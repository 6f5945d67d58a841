"""`studio-runner reports QUEUE`."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from studio_runner.cli.broker import broker_for, opened_queue
from studio_runner.cli.complete import queue_names
from studio_runner.cli.experiments import BROKERS, say
from studio_runner.cli.front import front_of
from studio_runner.cli.options import json_option, with_settings
from studio_runner.cli.output import safe
from studio_runner.cli.session import Session
from studio_runner.config.responses import response_of
from studio_runner.config.settings import Settings

if TYPE_CHECKING:
    from studio_runner.messages.keys import OpeningKey
    from studio_runner.messages.report import Payload, Report
    from studio_runner.queues.base import KeptBroker

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("queue", shell_complete=queue_names)
@click.option("--key", "key_file", type=_FILE, required=True, metavar="FILE", help="Private key of the reader.")
@click.option("--passphrase-file", type=_FILE, metavar="FILE", help="File with the passphrase of the key.")
@click.option("--follow", "-f", is_flag=True, help="Wait for more until interrupted.")
@click.option("--create", is_flag=True, help="Make the response queue if there is none: runners report to it then.")
@json_option
@with_settings("places.home", "places.queue_root", *BROKERS)
@click.pass_obj
def command(
    session: Session, settings: Settings, /, queue: str, key_file: Path, passphrase_file: Path | None, **flags: bool
) -> None:
    """Take the reports on experiments of QUEUE off its response queue and print them, oldest first.

    With --json every line is one report. What cannot be opened is told of and stays in the queue; once one
    could be, others that cannot be are set aside with the dead letters of the response queue.
    """
    from studio_runner.client.reports import reader_key

    asyncio.run(_read(session, settings, response_of(queue), reader_key(key_file, passphrase_file), flags))


async def _read(
    session: Session, settings: Settings, queue: str, key: "OpeningKey", flags: "dict[str, bool]"
) -> None:
    from studio_runner.client.reports import ReportReader

    with front_of(session, settings) as front:
        async with (
            _opened(queue, front.settings, create=flags["create"]) as broker,
            ReportReader(broker, queue, key, follow=flags["follow"], tell=say) as reports,
        ):
            async for report in reports:
                click.echo(json.dumps(report.document) if flags["as_json"] else _line(report))


@asynccontextmanager
async def _opened(queue: str, settings: Settings, *, create: bool) -> "AsyncIterator[KeptBroker]":
    if create:
        async with broker_for(queue, settings) as broker:
            await broker.create(queue)
    async with opened_queue(queue, settings) as broker:
        yield broker


def _line(report: "Report") -> str:
    time = f"{report.time.astimezone():%Y-%m-%d %H:%M:%S}" if report.time else "-"
    return safe(f"{time}  {report.experiment_id}  {_told(report.payload)}")


def _told(payload: "Payload | None") -> str:
    """What happened, for people."""
    from studio_runner.messages.report import LogEntry, Progress

    match payload:
        case Progress(json=str(line)):
            return line
        case Progress(state, error=error):
            code = f" (code {error.code})" if error and error.code else ""
            return f"{state.name.capitalize()}{f': {error.message}{code}' if error else ''}"
        case LogEntry(message, severity, fields):
            words = " ".join(f"{name}={json.dumps(value)}" for name, value in fields.items())
            return f"{severity.name.lower()}: {message}{f' ({words})' if words else ''}"
        case str():
            return payload
        case None:
            return "(nothing)"
    return json.dumps(payload.document)
