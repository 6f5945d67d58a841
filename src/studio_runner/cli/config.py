"""`studio-runner config show`."""

import click

from studio_runner.cli.common import common
from studio_runner.cli.options import json_option
from studio_runner.cli.output import print_json, print_table
from studio_runner.cli.session import Session
from studio_runner.config.cascade import Configuration, Value


@click.group("config")
def command() -> None:
    """Show the settings and where they come from."""


@command.command("show")
@json_option
@click.pass_obj
def show(session: Session, *, as_json: bool) -> None:
    """Print every setting, its value, and where the value comes from."""
    configuration = session.configuration()
    if as_json:
        print_json(_document(configuration))
        return
    rows = [(key, value.shown, value.origin) for key, value in configuration.values.items()]
    print_table(("setting", "value", "from"), rows)
    for note in configuration.notes:
        click.echo(f"Note: {note}.", err=True)


def _document(configuration: Configuration) -> dict[str, object]:
    """Durations in seconds, sizes in bytes."""
    return {
        "file": configuration.file,
        "settings": {
            key: {"value": _plain(value), "from": value.origin} for key, value in configuration.values.items()
        },
        "notes": configuration.notes,
    }


def _plain(value: Value) -> object:
    """As programs read it; text without what is secret in it."""
    if value.option.secret or isinstance(value.value, str):
        return value.shown
    return value.value


show.params += common()
