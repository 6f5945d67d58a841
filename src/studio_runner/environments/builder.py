"""Builds one virtual environment: uv where it accepts the interpreter, virtualenv and pip where not."""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from studio_runner.environments.base import Environment, Log
from studio_runner.environments.gitlogins import without_logins
from studio_runner.environments.installers import (
    Failure,
    Installer,
    Trouble,
    failure,
    is_noise,
    pip_installer,
    uv_installer,
    uv_variables,
)
from studio_runner.environments.plan import Plan
from studio_runner.environments.programs import Programs, clean
from studio_runner.environments.requirements import RequirementSet
from studio_runner.environments.uv import uv_binary
from studio_runner.errors import EnvironmentFailedError, EnvironmentUnavailableError
from studio_runner.process.base import Command
from studio_runner.process.environ import clean_environment

_PAUSES = (1.0, 4.0)
"""Seconds before the second and the third try when the network is in the way."""

_NO_DEPS = "trying again with exactly what the list names, without resolving dependencies"

_UV_SINCE = (3, 6)
_UV_REFUSES = ("Can't use Python at", "Failed to inspect Python interpreter")
"""What uv says to an interpreter that it does not support."""

_BUILD_VARIABLES = ("CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "MAKEFLAGS", "NETRC", "SSH_AUTH_SOCK")
_BUILD_PREFIXES = ("GIT_", "CMAKE_", "PKG_CONFIG_")

VirtualenvTool = Callable[[Log], AbstractAsyncContextManager[Environment]]
"""An environment that virtualenv is installed in."""


@dataclass(frozen=True)
class Way:
    """One way of installing a list; `note` says what is different about it."""

    lines: tuple[str, ...]
    options: tuple[str, ...] = ()
    note: str = ""


class Builder:
    """Builds plans below a cache directory. `environ` is the runner's environment, `virtualenv` the tool for
    interpreters that uv does not support."""

    def __init__(
        self, programs: Programs, cache_dir: Path, environ: Mapping[str, str], virtualenv: VirtualenvTool
    ) -> None:
        self._programs = programs
        self._virtualenv = virtualenv
        self._app_data = cache_dir / "virtualenv"
        self._env = {
            **clean_environment(environ),
            **{name: value for name, value in environ.items() if _for_building(name)},
            "UV_CACHE_DIR": environ.get("UV_CACHE_DIR") or str(cache_dir / "uv"),
            "PIP_CACHE_DIR": environ.get("PIP_CACHE_DIR") or str(cache_dir / "pip"),
        }

    async def build(self, plan: Plan, directory: Path, log: Log) -> None:
        """Make `directory`/env, the installer's words in `log`; EnvironmentFailedError says what mattered."""
        installer = await self._create(plan, directory / "env", log)
        listing = directory / "requirements.txt"
        try:
            installation = _Installation(self._programs, installer, listing, _Words(plan.secrets, log))
            for requirements in (plan.requirements, plan.extra):
                await installation.install(requirements)
        finally:
            listing.unlink(missing_ok=True)  # it may hold expanded secrets

    async def _create(self, plan: Plan, prefix: Path, log: Log) -> Installer:
        python = prefix / "bin/python"
        if plan.interpreter.numbers >= _UV_SINCE:
            program = str(uv_binary())
            argv = (program, "venv", "--quiet", "--no-project", "--python", plan.interpreter.path, str(prefix))
            words = _Words((), lambda _: None)
            if (
                await self._programs.run(self._command(argv, uv_variables(plan.indexes), prefix.parent), words.take)
                == 0
            ):
                return uv_installer(program, python, plan.indexes, self._env)
            if not any(reason in line for line in words.lines for reason in _UV_REFUSES):
                raise _failed(plan, "The virtual environment could not be made", failure(words.lines))
        await self._create_with_virtualenv(plan, prefix, log)
        return pip_installer(python, plan.indexes, self._env)

    async def _create_with_virtualenv(self, plan: Plan, prefix: Path, log: Log) -> None:
        options = ("--quiet", "--no-download", "--no-periodic-update", "--app-data", str(self._app_data))
        words = _Words((), log)
        async with self._virtualenv(log) as tool:
            argv = ("-m", "virtualenv", *options, "--python", plan.interpreter.path, str(prefix))
            if await self._programs.run(tool.command(argv, self._env, prefix.parent), words.take):
                raise _failed(plan, "The virtual environment could not be made", failure(words.lines))

    def _command(self, argv: tuple[str, ...], extra: Mapping[str, str], cwd: Path) -> Command:
        return Command(argv, {**self._env, **extra}, cwd)


class _Words:
    """Collects an installer's lines and hands those that tell a reader something on to the experiment's output."""

    def __init__(self, secrets: tuple[str, ...], log: Log) -> None:
        self._secrets = secrets
        self.log = log
        self.lines: list[str] = []

    def take(self, raw: str) -> None:
        line = clean(raw, self._secrets)
        self.lines.append(line)
        if not is_noise(line):
            self.log(line)


class _Installation:
    """Installs lists into one environment."""

    def __init__(self, programs: Programs, installer: Installer, listing: Path, words: _Words) -> None:
        self._programs = programs
        self._installer = installer
        self._listing = listing
        self._words = words

    async def install(self, requirements: RequirementSet) -> None:
        """In the first way that works."""
        if not requirements.lines:
            return
        found: Failure | None = None
        for way in _ways(requirements):
            if way.note:
                self._words.log(way.note)
            found = await self._persist(way)
            if found is None:
                return
            if found.trouble is not Trouble.RESOLUTION:
                break
        raise _error("The packages could not be installed", found)

    async def _persist(self, way: Way) -> Failure | None:
        """Again after a pause, as long as the network is in the way."""
        for pause in _PAUSES:
            found = await self._run(way)
            if found is None or found.trouble is not Trouble.NETWORK:
                return found
            self._words.log(f"the package index did not answer; trying again in {pause:g} s")
            await asyncio.sleep(pause)
        return await self._run(way)

    async def _run(self, way: Way) -> Failure | None:
        # Installers expand ${NAME} from their own environment; what the request did not define stays as it is.
        lines, logins = without_logins(way.lines, self._installer.env)
        text = "".join(f"{line}\n" for line in lines).replace("${", "%24{")
        descriptor = os.open(self._listing, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        self._words.lines.clear()
        command = self._installer.command(self._listing, way.options)
        command = replace(command, env={**command.env, **logins})
        code = await self._programs.run(command, self._words.take)
        return failure(self._words.lines) if code else None


def _ways(requirements: RequirementSet) -> Iterator[Way]:
    """As it stands first; then without what freeze lists are known to get wrong."""
    lines, without_tools = requirements.lines, requirements.without_tools()
    yield Way(lines)
    if without_tools != lines:
        yield Way(without_tools, note="trying again without a fixed version of pip, setuptools and wheel")
    yield Way(without_tools, ("--no-deps",), note=_NO_DEPS)


def _for_building(name: str) -> bool:
    return name in _BUILD_VARIABLES or name.startswith(_BUILD_PREFIXES)


def _failed(plan: Plan, what: str, found: Failure) -> EnvironmentFailedError:
    return _error(f"{what} with {plan.interpreter}", found)


def _error(what: str, found: Failure | None) -> EnvironmentFailedError:
    if found is None:
        return EnvironmentFailedError(what)
    message = f"{what}: {found.sentence}"
    if found.trouble is Trouble.NETWORK:
        return EnvironmentUnavailableError(message, hint="The package index did not answer in three tries.")
    if found.trouble is Trouble.DISK:
        return EnvironmentUnavailableError(message, hint="Free disk space where the runner's cache directory is.")
    return EnvironmentFailedError(message, hint="The installer's own words are in the experiment's output.")
