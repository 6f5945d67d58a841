"""The options of every command. Apart from the others because `--version` needs no more than these."""

from pathlib import Path

import click

from studio_runner.cli.session import Session

NAME = "studio-runner"
COMPLETE = "_STUDIO_RUNNER_COMPLETE"
"""The variable through which a shell asks for completions."""


def common() -> list[click.Option]:
    """What every command takes, before or after its name."""
    return [
        click.Option(
            ["--config"],
            metavar="FILE",
            type=click.Path(path_type=Path),
            expose_value=False,
            callback=_remember_file,
            help="Read the settings from this file.",
        ),
        click.Option(
            ["--debug"],
            is_flag=True,
            expose_value=False,
            callback=_remember_debug,
            help="Say everything; show where an error came from.",
        ),
    ]


def _remember_file(context: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    if value is not None and isinstance(context.obj, Session):
        context.obj.config_file = value


def _remember_debug(context: click.Context, _parameter: click.Parameter, value: object) -> None:
    if value and isinstance(context.obj, Session):
        context.obj.debug = True
