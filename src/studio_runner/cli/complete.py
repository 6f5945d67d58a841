"""What a shell may offer for an argument: names that are there now. Never an error, never slow."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import click

from studio_runner.cli.session import Session
from studio_runner.config.settings import Places
from studio_runner.errors import ConfigError

_MOST = 200
"""More than this is no help to anybody."""


def queue_names(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Queues under the queue root."""
    places = _places(context)
    return _names(places.queue_root, begun) if places else []


def experiment_keys(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Experiments with a record in the store, and `last`."""
    places = _places(context)
    known = _names(places.store / "db" / "experiments", begun) if places else []
    return [*known, *(word for word in ("last",) if word.startswith(begun))]


def _places(context: click.Context) -> Places | None:
    session = context.find_object(Session)
    with contextlib.suppress(ConfigError):
        return session.configuration().settings.places if session else None
    return None


def _names(directory: Path, begun: str) -> list[str]:
    with contextlib.suppress(OSError):
        return sorted(_matching(directory, begun), reverse=True)[:_MOST]
    return []


def _matching(directory: Path, begun: str) -> Iterator[str]:
    with os.scandir(directory) as entries:
        yield from (
            entry.name for entry in entries if entry.name.startswith(begun) and not entry.name.startswith(".")
        )
