"""The provider of virtual environments: found warm in a fraction of a millisecond, built once when cold."""

import asyncio
import os
import sys
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from studio_runner.environments.base import CacheUsage, Environment, EnvironmentSpec, Log
from studio_runner.environments.builder import Builder
from studio_runner.environments.bytecode import BytecodeCompiler
from studio_runner.environments.cache import EnvironmentCache, Manifest, Slot, boot_id, guards
from studio_runner.environments.files import make_read_only
from studio_runner.environments.housekeeping import Housekeeper
from studio_runner.environments.indexes import IndexReader
from studio_runner.environments.interpreters import Interpreters
from studio_runner.environments.packages import Package, installed, site_packages
from studio_runner.environments.plan import Plan, Planner
from studio_runner.environments.programs import Programs
from studio_runner.environments.uninterrupted import uninterrupted
from studio_runner.errors import EnvironmentUnavailableError
from studio_runner.process.base import Command
from studio_runner.process.spawn import Spawner

_VIRTUALENV = "virtualenv>=20.21.1,<20.22"
"""The last ones that make environments for Python 2.7 and 3.6."""


class VirtualEnvironment:
    """A prepared environment, in use until its provider's context ends."""

    def __init__(self, slot: Slot, compiler: BytecodeCompiler) -> None:
        self._slot = slot
        self._compiler = compiler

    @property
    def name(self) -> str:
        count = len(self._slot.manifest.packages)
        return f"{self._slot.manifest.python}, {count} package{'' if count == 1 else 's'}"

    @property
    def prefix(self) -> Path:
        return self._slot.prefix

    def packages(self) -> tuple[Package, ...]:
        """What is installed, as it was when the environment was built."""
        return self._slot.manifest.packages

    def command(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> Command:
        folder = self._slot.prefix / "bin"
        path = os.pathsep.join([str(folder), env.get("PATH") or os.defpath])
        self._compiler.start(self._slot)
        own = {**env, "VIRTUAL_ENV": str(self._slot.prefix), "PATH": path}
        return Command((self._slot.manifest.executable, *argv), own, cwd)

    def not_started(self, code: int | None, output: bytes) -> None:
        """The command is the interpreter itself: when that runs, so does the script."""


class VirtualenvProvider:
    """Virtual environments below `cache_dir`, at most `budget` bytes of them (0: no limit).

    An async context manager; installers and compilers run through `spawner`, which has to outlive it. `environ` is
    the runner's own environment: where interpreters are looked for, and the operator's pip and uv configuration.
    """

    def __init__(self, cache_dir: Path, budget: int, spawner: Spawner, environ: Mapping[str, str]) -> None:
        programs = Programs(spawner)
        self._cache = EnvironmentCache(cache_dir / "environments", budget)
        self.interpreters = Interpreters(cache_dir / "interpreters.json", environ)
        self._planner = Planner(self.interpreters, IndexReader(environ))
        self._builder = Builder(programs, cache_dir, environ, self._virtualenv)
        self._compiler = BytecodeCompiler(programs, self._cache)
        self._housekeeper = Housekeeper(self._cache, cache_dir / "uv", programs)
        self._hits = self._misses = 0
        self._building: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def __aenter__(self) -> Self:
        self._housekeeper.tidy()
        self._looking = asyncio.create_task(self._look_around(), name="find interpreters")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._looking.cancel()
        with suppress(asyncio.CancelledError):
            await self._looking
        await self._compiler.close()
        await self._housekeeper.close()

    async def _look_around(self) -> None:
        """Ask the interpreters of this machine now, so that the first experiment need not wait for it."""
        with suppress(OSError):  # whoever needs one will say it
            await self.interpreters.all()

    async def compiled(self) -> None:
        """Until no environment is being compiled in the background."""
        await self._compiler.idle()

    async def usage(self) -> CacheUsage:
        size = await asyncio.to_thread(self._cache.usage)
        return CacheUsage(hits=self._hits, misses=self._misses, size=size)

    async def tidied(self) -> None:
        """Until what is too much has been evicted."""
        await self._housekeeper.idle()

    async def key(self, spec: EnvironmentSpec) -> str:
        return (await self._planner.plan(spec)).key

    def prepare(self, spec: EnvironmentSpec, log: Log) -> AbstractAsyncContextManager[VirtualEnvironment]:
        return self._prepare(spec, log)

    @asynccontextmanager
    async def _prepare(self, spec: EnvironmentSpec, log: Log) -> AsyncIterator[VirtualEnvironment]:
        plan = await self._planner.plan(spec)
        for note in plan.notes:
            log(note)
        slot = await self._found(plan, log)
        try:
            yield VirtualEnvironment(slot, self._compiler)
        finally:
            slot.close()

    async def _found(self, plan: Plan, log: Log) -> Slot:
        try:
            slot = self._cache.find(plan.key)
            if slot is not None:
                self._hits += 1
                return slot
            self._misses += 1
            return await self._built(plan, log)
        except OSError as error:
            raise EnvironmentUnavailableError(
                f"The environment cannot be kept on this machine: {error}",
                hint="The runner's cache directory must be writable, and its disk must not be full.",
            ) from error

    async def _built(self, plan: Plan, log: Log) -> Slot:
        """Build it, or wait for whoever does; when that fails or is cancelled, the next one waiting builds."""
        turn = self._building.setdefault(plan.key, asyncio.Lock())
        if turn.locked():
            _say_waiting(log)
        async with turn:
            slot = self._cache.find(plan.key)
            if slot is None:
                slot = await self._build(plan, log)
                self._housekeeper.tidy()
        return slot

    async def _build(self, plan: Plan, log: Log) -> Slot:
        async with self._cache.build(plan.key, lambda: _say_waiting(log)) as slot:
            if not slot.published:
                log(f"building an environment of {plan.interpreter}")
                await self._builder.build(plan, slot.directory, log)
                await uninterrupted(asyncio.to_thread(_publish, slot, plan))
            slot.share()
        return slot

    def _virtualenv(self, log: Log) -> AbstractAsyncContextManager[Environment]:
        """The tool for interpreters that uv does not support; itself an environment like any other."""
        version = ".".join(map(str, sys.version_info[:2]))
        return self._prepare(EnvironmentSpec(version, (_VIRTUALENV,)), log)


def _publish(slot: Slot, plan: Plan) -> None:
    site = site_packages(slot.prefix)
    make_read_only(slot.prefix)
    guarded = ("bin", str(site.relative_to(slot.prefix)))
    slot.publish(
        Manifest(
            python=str(plan.interpreter),
            executable=str(slot.prefix / "bin/python"),
            packages=installed(site),
            guards=guards(slot.prefix, guarded),
            boot=boot_id(),
        )
    )


def _say_waiting(log: Log) -> None:
    log("the same environment is being built for another experiment; waiting for it")
