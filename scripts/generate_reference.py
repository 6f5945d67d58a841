#!/usr/bin/env python3
"""Write the parts of docs/reference that the code knows best: commands, settings, cards, the request's schema, API.

scripts/generate_reference.py [DIRECTORY]   (default: docs/reference of this checkout)
"""

import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from studio_runner.cli import table
from studio_runner.cli.common import NAME
from studio_runner.cli.main import application
from studio_runner.cli.options import SettingOption
from studio_runner.config.cascade import CONFIG_VARIABLE, SYSTEM_FILE, default_of
from studio_runner.config.options import NOT_HERE, OPTIONS, Option, variable_name
from studio_runner.config.settings import Settings
from studio_runner.machine.gpus import slots
from studio_runner.messages.schema import schema_text
from studio_runner.web import openapi

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"
EVERYWHERE = {"config", "debug"}
WIDTH = 100  # not that of the terminal where this happens to run
MADE = "<!-- made by scripts/generate_reference.py; change the code, then run `make docs` -->"

CONFIGURATION = f"""\
# Configuration

{MADE}

Every setting has a packaged default, and is then taken from, the later the stronger:

1. the configuration file, TOML: the one that `--config` or `${CONFIG_VARIABLE}` names, else
   `$XDG_CONFIG_HOME/studio-runner/config.toml` (`~/.config/studio-runner/config.toml`), else `{SYSTEM_FILE}`;
   exactly one file is read;
2. the environment: a variable that is set and empty counts as not set; of two variables for one setting the first
   one listed wins;
3. flags of the command.

`studio-runner config show` prints every value and where it came from, secrets masked. A key that does not exist and
a value that cannot be used are errors, wherever they stand.

A relative path starts at the directory of the configuration file, or at the current directory for variables and
flags; `~` is the home directory. Durations are written `90s`, `1h30m`, `1.5h`, `300ms`, `2d`, or as a number of
seconds. Sizes are written `3gb` (powers of ten), `4GiB` (powers of two), or as a number of bytes. In the defaults
below `{{home}}` is `places.home` and `{{cache}}` is `$XDG_CACHE_HOME` or `~/.cache`.

`DEBUG`, set to `true`, `yes`, `on` or `1`, sets `log.level` to `debug`; other values of it are ignored, because
other programs have their own meanings for them.
"""

CODES = """\
Exit codes: 0 done, 1 the experiment or command failed (`run` and `exec` give the script's own), 2 usage or
configuration, 3 infrastructure, 130 interrupted. An error is one sentence on standard error, with a hint where
there is one; `--debug` adds where it came from. `--json` prints what programs read. `--config`, `--debug` and
`--help` can be given to every command.

"""

ELSEWHERE = """\
## Names of other StudioML runners that do nothing here

The flags are refused; the variables are warned about when the runner starts.

| flag | variable | why |
|---|---|---|
"""


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else REFERENCE
    for name, text in pages().items():
        (directory / name).write_text(text, "utf-8")


def pages() -> dict[str, str]:
    """File names with what they must contain."""
    return {
        "configuration.md": configuration(),
        "cli.md": command_line(),
        "gpus.md": gpus(),
        "request.schema.json": schema_text(),
        "openapi.json": openapi.document(),
    }


def configuration() -> str:
    groups = dict.fromkeys(option.group for option in OPTIONS)
    sections = (_settings(group, [option for option in OPTIONS if option.group == group]) for group in groups)
    refused = (f"| `--{flag}` | `{variable_name(flag)}` | {why} |\n" for flag, why in NOT_HERE.items())
    return "\n".join([CONFIGURATION, *sections, ELSEWHERE + "".join(refused)])


def _settings(group: str, options: Iterable[Option]) -> str:
    about = inspect.getdoc(inspect.get_annotations(Settings)[group])
    return f"## [{group}]\n\n{about}\n\n" + "".join(map(_setting, options))


def _setting(option: Option) -> str:
    flags = ", ".join(f"`--{flag}`" for flag in option.flags) or "none"
    variables = ", ".join(f"`{name}`" for name in option.variables)
    default = f"`{default_of(option)}`" if default_of(option) else "empty"
    return (
        f"**`{option.name}`** — {option.help}\n\n"
        f"Default {default}. Accepted is {option.kind.accepted}.<br>\n"
        f"Flag: {flags}. Variables: {variables}.\n\n"
    )


def gpus() -> str:
    """The page, with the table of slots put in its place."""
    start, end = "<!-- table: made by scripts/generate_reference.py -->\n", "<!-- end -->"
    before, rest = (REFERENCE / "gpus.md").read_text("utf-8").split(start, 1)
    tables = (
        f"\n### {title}\n\n| card | slots |\n|---|---:|\n"
        + "".join(f"| {name} | {count} |\n" for name, count in rows.items())
        for title, rows in slots.GROUPS.items()
    )
    return before + start + "".join(tables) + "\n" + end + rest.split(end, 1)[1]


def command_line() -> str:
    group = application()
    root = click.Context(group, info_name=NAME, terminal_width=WIDTH, **group.context_settings)
    about = f"# Command line\n\n{MADE}\n\n```text\n{group.get_help(root)}\n```\n\n"
    return about + CODES + "\n".join(_commands(root))


def _commands(root: click.Context) -> Iterator[str]:
    for name in table.COMMANDS:
        command = table.load(name)
        context = click.Context(command, info_name=name, parent=root)
        if isinstance(command, click.Group):
            yield from (
                _command(click.Context(inner, info_name=inner.name, parent=context))
                for inner in command.commands.values()
            )
        else:
            yield _command(context)


def _command(context: click.Context) -> str:
    command = context.command
    options = [one for one in command.params if isinstance(one, click.Option) and one.name not in EVERYWHERE]
    flags = [one.setting.flag for one in options if isinstance(one, SettingOption)]
    records = [one.get_help_record(context) for one in options if not isinstance(one, SettingOption)]
    rows = "".join(f"| `{_cell(record[0])}` | {_cell(record[1])} |\n" for record in records if record)
    usage = command.get_usage(context).removeprefix("Usage: ")
    return (
        f"## {context.command_path}\n\n{inspect.cleandoc(command.help or '')}\n\n```text\n{usage}\n```\n"
        + (f"\n| option | |\n|---|---|\n{rows}" if rows else "")
        + (f"\nSettings ([configuration](configuration.md)): {_listed(flags)}.\n" if flags else "")
    )


def _listed(flags: Iterable[str | None]) -> str:
    return ", ".join(f"`{flag}`" for flag in flags)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    main()
