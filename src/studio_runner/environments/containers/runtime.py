"""The program that runs containers: Apptainer or Singularity, whichever is here, and what it can do."""

import asyncio
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from studio_runner.environments.containers.failure import last_words, mend
from studio_runner.environments.programs import Programs, clean
from studio_runner.errors import EnvironmentFailedError
from studio_runner.process.base import Command
from studio_runner.process.environ import clean_environment

NAMES = ("apptainer", "singularity")
OLDEST = (3, 0)
"""Of Singularity; Apptainer began its own count after Singularity 3."""

_FLAG = re.compile(r"(?:^|\s)(--[a-z][a-z-]+)\b")
_VERSION = re.compile(r"(\d+)\.(\d+)")
_INSTALL = (
    "Install apptainer or singularity (3.0 or newer) on this machine, or say where it is (--container-runtime)."
)


@dataclass(frozen=True)
class Runtime:
    """One program. `flags` are the options of its `exec`, `said` what it answers to `--version`."""

    path: str
    said: str
    version: tuple[int, int]
    flags: frozenset[str]
    bind_paths: bool
    """Whether the binds that its own configuration names can be left out."""

    @property
    def apptainer(self) -> bool:
        return self.said.startswith("apptainer")

    @property
    def prefix(self) -> str:
        """Of variables that the runtime itself obeys."""
        return "APPTAINER" if self.apptainer else "SINGULARITY"

    def has(self, *flags: str) -> bool:
        return self.flags.issuperset(flags)


class Runtimes:
    """Finds the runtime and asks it once what it can do; again when it was exchanged.

    `configured` is the operator's choice, a path or a name; None: what PATH has. `environ` is the runner's own
    environment.
    """

    def __init__(self, programs: Programs, configured: Path | None, environ: Mapping[str, str]) -> None:
        self.programs = programs
        self.environ = environ
        self._configured = configured
        self._env = {**clean_environment(environ), "LC_ALL": "C"}
        self._known: tuple[tuple[str, int], Runtime] | None = None
        self._asking = asyncio.Lock()

    async def find(self) -> Runtime:
        """EnvironmentFailedError when there is none that can be used."""
        path = self.path()
        async with self._asking:
            state = path, os.stat(path).st_mtime_ns  # noqa: PTH116 - on the path of every container
            if self._known is None or self._known[0] != state:
                self._known = state, await self._ask(path)
            return self._known[1]

    def path(self) -> str:
        """As `runtime_path`."""
        return runtime_path(self._configured, self._env)

    async def _ask(self, path: str) -> Runtime:
        said = (await self._output(path, "--version")).strip().partition("\n")[0]
        help_text = await self._output(path, "exec", "--help")
        runtime = read_runtime(path, said, help_text)
        if runtime is None:
            raise EnvironmentFailedError(
                f"Containers cannot be run here: {path} says that it is {said or 'nothing'!r}", hint=_INSTALL
            )
        return runtime

    async def _output(self, *argv: str) -> str:
        lines: list[str] = []
        try:
            code = await self.programs.run(Command(argv, self._env, Path("/")), lines.append)
        except EnvironmentFailedError as error:
            raise EnvironmentFailedError(f"Containers cannot be run here: {error}", hint=_INSTALL) from error
        text = "\n".join(clean(line, ()) for line in lines)
        if code:
            words = last_words(lines) or f"{' '.join(argv)} ended with {code}"
            raise EnvironmentFailedError(f"Containers cannot be run here: {words}", hint=mend(words, _INSTALL))
        return text


def runtime_path(configured: Path | None, environ: Mapping[str, str]) -> str:
    """The program that is configured, else the first where the runner's own `environ` has programs;
    EnvironmentFailedError when there is none."""
    path = clean_environment(environ)["PATH"]
    for name in (str(configured),) if configured else NAMES:
        if found := shutil.which(name, path=path):
            return found
    what = f": {configured} is not a program" if configured else " (apptainer or singularity)"
    raise EnvironmentFailedError(f"There is no container runtime here{what}", hint=_INSTALL)


def read_runtime(path: str, said: str, help_text: str) -> Runtime | None:
    """From what it says of itself; None when that is no runtime, or one that is too old."""
    name, version = said.partition(" ")[0].partition("-")[0], _VERSION.search(said)
    if version is None or name not in NAMES:
        return None
    numbers = int(version[1]), int(version[2])
    if name == "singularity" and numbers < OLDEST:
        return None
    flags = frozenset(_FLAG.findall(help_text))
    return Runtime(path, said, numbers, flags, bind_paths="'bind-paths'" in help_text)
