"""`studio-runner start`."""

import asyncio
import logging
import os
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from studio_runner.cli.discretion import keep_memory
from studio_runner.cli.options import with_settings
from studio_runner.cli.session import Session
from studio_runner.config import kinds
from studio_runner.config.options import NOT_HERE
from studio_runner.config.settings import Settings
from studio_runner.messages.secrets import mask_urls

if TYPE_CHECKING:
    from studio_runner.runner.daemon import Tally

log = logging.getLogger(__name__)

GROUPS = (
    *("places", "queues", "storage", "machine", "gpus", "limits"),
    *("experiments", "containers", "caches", "trust", "http", "log"),
)


class DropIn(click.Command):
    """Reads flags in the spellings of existing StudioML runners as well: `-name`, and `--switch=true`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {name[2:]: option for option in self.params for name in option.opts if name.startswith("--")}
        return super().parse_args(ctx, [word for argument in args for word in _translated(argument, known)])


def _translated(argument: str, known: Mapping[str, click.Parameter]) -> list[str]:
    name, equals, value = argument.lstrip("-").partition("=")
    if not argument.startswith("-") or not {name} & (known.keys() | NOT_HERE.keys()):
        return [argument]
    option = known.get(name)
    if not equals or not isinstance(option, click.Option) or not option.is_flag:
        return [f"--{name}{equals}{value}"]
    try:
        wanted = kinds.SWITCH.read(value)
    except ValueError as error:
        raise click.BadOptionUsage(name, f"Option '--{name}' is {value!r}: accepted is true or false.") from error
    return [f"--{name}"] if wanted else [*option.secondary_opts]


@click.command(cls=DropIn)
@with_settings(*GROUPS, level="info")
@click.pass_obj
def command(session: Session, settings: Settings) -> None:
    """Run experiments from the queues, several at once, until told otherwise.

    SIGTERM or Ctrl-C: take nothing new, finish what runs. A second one: stop the experiments as well; they go back
    to their queues.
    """
    keep_memory()
    for note in _notes(session):
        log.warning(note)
    tally = asyncio.run(_serving(session, settings))
    ends = ", ".join(f"{count} {reason}" for reason, count in tally.by_reason.items())
    log.info("%d experiments started%s", tally.started, f": {ends}" if ends else "")


def _notes(session: Session) -> Iterator[str]:
    """What the operator may want to mend."""
    from studio_runner.cli.own_secrets import open_files
    from studio_runner.config.studioml import StudioConfig

    configuration = session.configuration()
    yield from configuration.notes
    for sentence in open_files(configuration, StudioConfig(), session.environ):
        yield f"{sentence}: run chmod 600 on it"
    for value in map(configuration.values.__getitem__, session.flags):
        text, option = str(value.value), value.option
        if mask_urls(text) != text:
            seen = _seen(option.flag, text)
            yield f"{seen}: use {option.variables[0]}, or the configuration file"


def _seen(flag: str | None, secret: str) -> str:
    """Who could read, or still can, what was given as a flag."""
    try:
        hidden = os.fsencode(secret) not in Path("/proc/self/cmdline").read_bytes()
    except OSError:
        hidden = False
    if hidden:
        return (
            f"the password in {flag} is hidden in this command line by now, but not in that of a program "
            "that started this one, nor in a shell's history"
        )
    return f"everybody on this machine can read the password in {flag}"


def _serving(session: Session, settings: Settings) -> "Coroutine[None, None, Tally]":
    """The daemon, with its HTTP side unless there is to be none."""
    if settings.http.address:
        from studio_runner.web.binding import AddressInUseError, listen

        try:
            listening = listen(settings.http)
        except AddressInUseError as error:
            if not session.configuration().values["http.address"].default:
                raise
            # nobody asked for it: most likely it is a second runner on this machine
            log.warning("%s: going on without dashboard, metrics and API. %s", error, error.hint)
        else:
            from studio_runner.web.app import serve as serve_with_http

            return serve_with_http(settings, session.secrets, listening)
    from studio_runner.runner.daemon import serve

    return serve(settings, session.secrets)
