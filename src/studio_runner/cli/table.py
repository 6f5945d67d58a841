"""The commands, by name. A command's module is imported when the command is used."""

import difflib
import importlib
from dataclasses import dataclass

import click

from studio_runner.cli.common import common

EXPERIMENTS = "Experiments"
RUNNER = "Runner"


@dataclass(frozen=True)
class Entry:
    """`help` stands here as well so that `--help` imports no command."""

    module: str
    help: str
    section: str


COMMANDS: dict[str, Entry] = {
    "run": Entry("run", "Run a script of this directory here and now, as an experiment.", EXPERIMENTS),
    "submit": Entry("submit", "Package this directory and queue the experiment.", EXPERIMENTS),
    "list": Entry("list_", "List experiments, newest first.", EXPERIMENTS),
    "show": Entry("show", "Show everything about an experiment.", EXPERIMENTS),
    "logs": Entry("logs", "Print or follow the output of an experiment.", EXPERIMENTS),
    "stop": Entry("stop", "Stop an experiment, or take it off its queue.", EXPERIMENTS),
    "fetch": Entry("fetch", "Fetch an artifact of an experiment.", EXPERIMENTS),
    "reports": Entry("reports", "Print the reports that runners sent on the experiments of a queue.", EXPERIMENTS),
    "rerun": Entry("rerun", "Queue an experiment again under a new key.", EXPERIMENTS),
    "start": Entry("start", "Run experiments from the queues.", RUNNER),
    "exec": Entry("exec_", "Run one request message, without a queue.", RUNNER),
    "check": Entry("check", "Say what the runner would make of a request message.", RUNNER),
    "queues": Entry("queues", "Show the queues, or the dead letters of one.", RUNNER),
    "requeue": Entry("requeue", "Put dead letters back on their queue.", RUNNER),
    "doctor": Entry("doctor", "Say what works on this machine and what does not.", RUNNER),
    "keys": Entry("keys", "Make and inspect keys, and say whose messages are taken.", RUNNER),
    "config": Entry("config", "Show the settings and where they come from.", RUNNER),
    "completion": Entry("completion", "Print the completion script of a shell.", RUNNER),
}


class Commands(click.Group):
    """A group whose commands are found in a table, each with the options that every command has."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        return load(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            ctx.fail(f"There is no command {name!r}{f': did you mean {near[0]!r}?' if near else '.'}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        width = max(map(len, COMMANDS))
        for section in (EXPERIMENTS, RUNNER):
            with formatter.section(section):
                rows = [
                    (name.ljust(width), entry.help) for name, entry in COMMANDS.items() if entry.section == section
                ]
                formatter.write_dl(rows)


def load(name: str) -> click.Command:
    """Import a command."""
    command: click.Command = importlib.import_module(f"studio_runner.cli.{COMMANDS[name].module}").command
    command.name, command.short_help = name, COMMANDS[name].help
    if not isinstance(command, click.Group):
        known = {parameter.name for parameter in command.params}
        command.params += [option for option in common() if option.name not in known]
    return command
