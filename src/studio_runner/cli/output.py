"""What commands print: JSON for programs, tables for people, plain lines where nobody watches."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

import click

from studio_runner.errors import StudioRunnerError


def print_json(data: object) -> None:
    click.echo(escaped(json.dumps(data, indent=2, default=_plain, ensure_ascii=False)))


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"{type(value).__name__} has no JSON form")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """A table; `right` names the columns of numbers."""
    cells = [[safe(cell) for cell in row] for row in rows]
    if watched():
        _print_rich(columns, cells, right)
    else:
        _print_plain(columns, cells, right)


def print_fields(fields: Mapping[str, object]) -> None:
    """One value per line, its name before it."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        click.echo(f"{name:<{width}}  {safe(value)}")


def output_writer() -> Callable[[bytes], None]:
    """Passes bytes on to standard output at once. When its reader goes away the rest is dropped: an experiment does
    not end because somebody has seen enough of it."""
    stream = sys.stdout.buffer

    def write(data: bytes) -> None:
        try:
            stream.write(data)
            stream.flush()
        except BrokenPipeError:
            discard_output()

    return write


def discard_output() -> None:
    """Nobody reads standard output any more: let nothing complain about it again, not even Python's last flush."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def tell(error: StudioRunnerError) -> None:
    """What happened and what to do, on standard error, without anything that a terminal would obey."""
    lines = (f"Error: {error}", f"Hint: {error.hint}" if error.hint else "")
    for line in filter(None, lines):
        click.echo("".join(char if char.isprintable() else "?" for char in line), err=True)


def watched() -> bool:
    """Whether a person looks at the output, on a terminal that can draw."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def escaped(text: str) -> str:
    """Its lines, with what a terminal would obey as JSON spells it: text stays readable, and JSON the same."""
    return "\n".join(map(_escaped_line, text.split("\n")))


def _escaped_line(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in line)


def safe(value: object) -> str:
    """One line without control characters: names and reasons come from other people's messages."""
    text = "" if value is None else str(value)
    return "".join(char if char.isprintable() else " " if char.isspace() else "?" for char in text)


def _print_plain(columns: Sequence[str], cells: list[list[str]], right: Sequence[str]) -> None:
    table = [[column.upper() for column in columns], *cells]
    widths = [max(len(row[index]) for row in table) for index in range(len(columns))]
    for row in table:
        aligned = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        )
        click.echo("  ".join(aligned).rstrip())


def _print_rich(columns: Sequence[str], cells: list[list[str]], right: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.upper(), justify="right" if column in right else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
