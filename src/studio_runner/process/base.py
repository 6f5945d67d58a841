"""Values of the process layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Command:
    """What is executed: no shell, the whole environment (nothing is inherited), an absolute directory.

    `helpers` are names of programs that the tree needs to its end: asked to end, they are left alone; killed, they
    are not.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    helpers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exit:
    """How the first process of a tree ended, after the whole tree is gone.

    Exactly one of `code` and `signal` is set. `peak_memory` in bytes and `cpu_seconds` cover the
    processes that were waited for; `left_behind` counts those that had to be killed after the first one ended.
    """

    code: int | None
    signal: int | None
    peak_memory: int
    cpu_seconds: float
    left_behind: int
