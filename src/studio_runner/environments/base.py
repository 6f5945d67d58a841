"""The environment seam: something that turns argv into a command."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from studio_runner.errors import EnvironmentFailedError
from studio_runner.process.base import Command

Log = Callable[[str], None]
"""Takes one line (no line end) for the experiment's output; must not block."""


@dataclass(frozen=True)
class EnvironmentSpec:
    """What a request asks of its environment.

    `python` is a version prefix (`"3"`, `"3.8"`, `"2.7.18"`, or `""` for any); `requirements` the lines as sent
    (INTERFACE section 4); `variables` what `${NAME}` in them means; `extra` lines are installed after
    `requirements`; `gpus`: the experiment has GPUs reserved.
    """

    python: str
    requirements: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    gpus: bool = False


class Installed(Protocol):
    """One installed package and the names of what it depends on."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def requires(self) -> Sequence[str]: ...


class Environment(Protocol):
    """A prepared environment, in use until its context ends."""

    @property
    def name(self) -> str:
        """For people: `python 3.8.18, 12 packages`."""
        ...

    def packages(self) -> Sequence[Installed]:
        """What is installed in it."""
        ...

    def command(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> Command:
        """`argv` starts with the script or `-m`; the interpreter is put before it and its directory onto PATH."""
        ...

    def not_started(self, code: int | None, output: bytes) -> EnvironmentFailedError | None:
        """What kept the script from starting, told by the exit code of the command and the beginning of its output;
        None when it did start."""
        ...


@dataclass(frozen=True)
class CacheUsage:
    """How often an environment was there already or had to be built; the bytes of all that are kept."""

    hits: int
    misses: int
    size: int


class EnvironmentProvider(Protocol):
    """Makes environments."""

    async def key(self, spec: EnvironmentSpec) -> str: ...

    def prepare(self, spec: EnvironmentSpec, log: Log) -> AbstractAsyncContextManager[Environment]:
        """Build or find the environment; EnvironmentFailedError when it cannot be had, its words in `log`."""
        ...

    async def usage(self) -> CacheUsage: ...
