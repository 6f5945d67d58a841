"""Compiles environments in the background, at the lowest priority.

uv installs without compiling. What an experiment imports, its own interpreter compiles and keeps: the `__pycache__`
directories are the one thing in an environment that it may write to. So the first experiment starts at once and a
second one with the same imports finds bytecode; the rest is compiled here, for those with other imports.
"""

import asyncio
import logging

from studio_runner.environments.cache import EnvironmentCache, Slot
from studio_runner.environments.packages import site_packages
from studio_runner.environments.programs import Programs
from studio_runner.errors import StudioRunnerError
from studio_runner.process.base import Command

logger = logging.getLogger(__name__)

_QUIET = 10.0
"""Seconds without the start of an experiment in that environment before it is compiled. Even at the lowest priority
a compiler on the neighbouring hardware thread slows an experiment's own imports by a quarter."""
_AT_ONCE = 1

_PROGRAM = """\
import compileall, os, re, sys

site = sys.argv[1]
try:  # the kernel gives such a process idle input and output as well
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
except (AttributeError, OSError):
    os.nice(19)
for leave_out in (re.compile("/tests?/"), None):
    compileall.compile_dir(site, maxlevels=100, quiet=2, rx=leave_out)
os.sync()  # from here on a loss of power damages nothing
files = (os.path.join(folder, name) for folder, _, names in os.walk(site) for name in names)
print(sum(os.path.getsize(path) for path in files if path.endswith(".pyc")))
"""
"""Takes up where it was killed: files that are compiled are passed over, and each appears whole, by rename."""


class BytecodeCompiler:
    """Owns the background compilations of one runner; `close` ends them at once (they go on another time)."""

    def __init__(self, programs: Programs, cache: EnvironmentCache) -> None:
        self._programs = programs
        self._cache = cache
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._starts: dict[str, asyncio.Event] = {}
        """Set when one more experiment is started in an environment that has a task."""

    def start(self, slot: Slot) -> None:
        """An experiment is being started in the slot; compile its environment soon, unless that is done."""
        key = slot.directory.name
        if key in self._tasks:
            self._starts[key].set()
        elif not slot.compiled:
            self._starts[key] = asyncio.Event()
            self._tasks[key] = asyncio.create_task(self._compile(key), name=f"compile {key}")
            self._tasks[key].add_done_callback(lambda _: self._forget(key))

    def _forget(self, key: str) -> None:
        del self._tasks[key], self._starts[key]

    async def idle(self) -> None:
        """Until nothing is being compiled."""
        while self._tasks:
            await asyncio.wait(self._tasks.values())

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await self.idle()

    async def _compile(self, key: str) -> None:
        await self._quiet(self._starts[key])
        async with self._gate:
            slot = self._cache.find(key)  # a hold of its own: the experiment may end before this does
            if slot is None:
                return
            try:
                await self._run(slot)
            except StudioRunnerError as error:
                logger.warning("bytecode of %s was not compiled: %s", key, error)
            finally:
                slot.close()

    async def _quiet(self, started: asyncio.Event) -> None:
        """Until no experiment was started for a while."""
        while True:
            try:
                async with asyncio.timeout(_QUIET):
                    await started.wait()
            except TimeoutError:
                return
            started.clear()

    async def _run(self, slot: Slot) -> None:
        lines: list[str] = []
        argv = (slot.manifest.executable, "-E", "-s", "-S", "-c", _PROGRAM, str(site_packages(slot.prefix)))
        code = await self._programs.run(Command(argv, {"LC_ALL": "C.UTF-8"}, slot.directory), lines.append)
        if code == 0 and lines and lines[-1].isdecimal():
            slot.set_compiled(int(lines[-1]))
        else:
            logger.warning("compiling %s ended with %d: %s", slot.directory.name, code, " | ".join(lines[-3:]))
