"""`studio-runner fetch`."""

import asyncio
import os
from pathlib import Path

import click

from studio_runner.cli.experiments import busy, key_argument
from studio_runner.cli.front import front_of
from studio_runner.cli.options import json_option, with_settings
from studio_runner.cli.output import print_json
from studio_runner.cli.session import Session
from studio_runner.config.settings import Settings
from studio_runner.errors import UsageError


@click.command()
@key_argument
@click.argument("label")
@click.argument("directory", required=False, type=click.Path(file_okay=False, path_type=Path))
@json_option
@with_settings("places.home", "places.store", "storage")
@click.pass_obj
def command(
    session: Session, settings: Settings, /, directory: Path | None, *, as_json: bool, **wanted: str
) -> None:
    """Fetch artifact LABEL of an experiment into DIRECTORY (a new or empty one) [default: LABEL]."""
    target = (directory or Path(wanted["label"])).absolute()
    if target.is_dir() and any(target.iterdir()):
        raise UsageError(f"The directory {target} is not empty", hint="Name another one after the label.")
    os.umask(session.umask)
    asyncio.run(_fetch(session, settings, target, **wanted))
    files = sum(path.is_file() for path in target.rglob("*"))
    if as_json:
        print_json({"directory": target, "files": files})
    else:
        click.echo(f"{files} file{'' if files == 1 else 's'} in {target}")


async def _fetch(session: Session, settings: Settings, target: Path, *, key: str, label: str) -> None:
    from studio_runner.client.artifact_files import fetch_artifact
    from studio_runner.client.lookup import find_current

    with front_of(session, settings) as front:
        async with front.opened_holdings() as holdings:
            record = await find_current(holdings, key)
            with busy(f"fetching {label}"):
                await fetch_artifact(record, label, target, holdings.opener)
