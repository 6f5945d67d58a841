"""Which experiment a line of the log is about."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """What the current task works on."""

    experiment: str
    attempt: int
    queue: str


about: ContextVar[About | None] = ContextVar("about", default=None)


@contextmanager
def concerning(experiment: str, attempt: int, queue: str) -> Iterator[None]:
    """Log records made inside concern this attempt (tasks started inside inherit it)."""
    token = about.set(About(experiment, attempt, queue))
    try:
        yield
    finally:
        about.reset(token)
