"""What the commands about experiments share: their options, and how they tell of progress."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from studio_runner.cli.options import Callback
from studio_runner.errors import ExitCode

if TYPE_CHECKING:  # what submitting needs is imported when something is submitted
    from studio_runner.client.submit import Order
    from studio_runner.reports.records import Record

PLACES = ("places.home", "places.queue_root", "places.store")
"""Settings of a command about experiments, with those of its brokers and stores."""

BROKERS = (
    "queues.amqp_url",
    "queues.amqp_management_url",
    "queues.amqp_ca",
    "queues.amqp_cert",
    "queues.amqp_key",
    "queues.sqs_certs",
    "queues.sqs_region",
    "queues.sqs_endpoint",
)

SCRIPT_CONTEXT = {"ignore_unknown_options": False, "allow_interspersed_args": False}
"""What follows the script belongs to the script."""


def script_arguments(function: Callback) -> Callback:
    """SCRIPT [ARGS...]"""
    function = click.argument("args", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]...")(function)
    return click.argument("script", metavar="SCRIPT", required=False)(function)


def experiment_options(function: Callback) -> Callback:
    """Everything that says what an experiment is; `order_of` reads it."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def key_argument(function: Callback) -> Callback:
    """KEY: the key of an experiment, its beginning, or `last`."""
    from studio_runner.cli.complete import experiment_keys

    return click.argument("key", shell_complete=experiment_keys)(function)


def _quantity(kind: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """Refuses what is no duration or size, and passes on what is as it was spelled."""

    def check(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
        from studio_runner.messages import units

        read: Mapping[str, Callable[[object], object]] = {
            "duration": units.parse_duration,
            "size": units.parse_size,
        }
        try:
            read[kind](value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
        return value

    return check


_FILE = click.Path(path_type=Path)

_OPTIONS = (
    click.option("--experiment", "-e", metavar="KEY", help="Key of the experiment; otherwise one is made."),
    click.option("--project", metavar="NAME", help="Project it belongs to."),
    click.option("--cpus", type=click.IntRange(min=0), help="Cores it needs."),
    click.option("--ram", metavar="SIZE", callback=_quantity("size"), help="Memory it needs, such as 4gb."),
    click.option("--hdd", metavar="SIZE", callback=_quantity("size"), help="Disk it needs."),
    click.option("--gpus", type=click.IntRange(min=0), help="GPU slots it needs (a measure of throughput)."),
    click.option("--gpuMem", "gpuMem", metavar="SIZE", callback=_quantity("size"), help="Memory of each GPU."),
    click.option("--gpuCount", "gpuCount", type=click.IntRange(min=0), help="GPU cards it needs."),
    click.option("--max-duration", metavar="DURATION", callback=_quantity("duration"),
                 help="Longest time one attempt may take, such as 90s or 1h30m."),
    click.option("--lifetime", metavar="DURATION", callback=_quantity("duration"),
                 help="Time from now after which it must not start, and is stopped when it runs."),
    click.option("--capture", "-c", multiple=True, metavar="DIR:LABEL",
                 help="Directory LABEL beside the script's, which starts with what DIR holds and is brought back."),
    click.option("--capture-once", "-co", "capture_once", multiple=True, metavar="PATH:LABEL",
                 help="Directory LABEL beside the script's with what PATH or an address holds; to be read only."),
    click.option("--reuse", "-r", multiple=True, metavar="KEY/LABEL:NEW",
                 help="Directory NEW beside the script's with artifact LABEL of experiment KEY."),
    click.option("--container", metavar="IMAGE",
                 help="Container image to run in: a SIF file, the directory of a sandbox, or an address such as "
                 "docker://python:3.11. Without SCRIPT its own program is run."),
    click.option("--requirements", multiple=True, type=_FILE, metavar="FILE",
                 help="Requirements file (instead of what the active virtual environment holds)."),
    click.option("--pyproject", type=_FILE, metavar="FILE", help="Take project.dependencies of a pyproject.toml."),
    click.option("--extra", multiple=True, metavar="NAME", help="And an optional group of pyproject.toml."),
    click.option("--python-pkg", multiple=True, metavar="REQUIREMENT", help="One more package to install."),
    click.option("--python", metavar="VERSION", help="Python version, such as 3.11; otherwise the active one's."),
    click.option("--hyperparam", "-hp", "hyperparam", multiple=True, metavar="NAME=VALUES",
                 help="One experiment per value of NAME in the script: V1,V2 or FROM:TO or FROM:STEP:TO or "
                 "FROM:lCOUNT:TO."),
    click.option("--workspace-limit", metavar="SIZE", default="1gb", show_default=True, callback=_quantity("size"),
                 help="Largest working directory that is packaged; 0: any."),
)  # fmt: skip


def order_of(script: str | None, args: tuple[str, ...], chosen: Mapping[str, Any]) -> "Order":
    """The options as an order."""
    from studio_runner.client.artifacts import parse_capture, parse_image, parse_reuse
    from studio_runner.client.hyperparameters import parse_hyperparameter
    from studio_runner.client.request import RESOURCES, Draft
    from studio_runner.client.requirements import Wanted
    from studio_runner.client.submit import Order
    from studio_runner.messages.units import parse_size

    return Order(
        directory=Path.cwd(),
        base=Draft(
            key=chosen["experiment"] or "",
            filename=script,
            args=args,
            resources={name: chosen[name] for name in RESOURCES},
            project=chosen["project"],
            max_duration=chosen["max_duration"],
            lifetime=chosen["lifetime"],
        ),
        wanted=Wanted(chosen["requirements"], chosen["pyproject"], chosen["extra"], chosen["python_pkg"]),
        python=chosen["python"],
        captures=tuple(map(parse_capture, chosen["capture"])),
        captures_once=(
            *map(parse_capture, chosen["capture_once"]),
            *([parse_image(chosen["container"])] if chosen["container"] else []),
        ),
        reuses=tuple(map(parse_reuse, chosen["reuse"])),
        hyperparameters=tuple(map(parse_hyperparameter, chosen["hyperparam"])),
        limit=parse_size(chosen["workspace_limit"]) or 0,
    )


def exit_code(record: "Record") -> int:
    """0 when the experiment completed."""
    return ExitCode.DONE if record.reason == "completed" else ExitCode.FAILED


def write_output(piece: bytes) -> None:
    """The script's output, byte by byte as it is."""
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def say(line: str) -> None:
    """One line about what goes on, apart from what the command prints."""
    from studio_runner.cli.output import safe

    text = safe(line)
    click.echo(click.style(text, dim=True) if sys.stderr.isatty() else text, err=True)


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Shows that something takes its time, when a person is watching."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
