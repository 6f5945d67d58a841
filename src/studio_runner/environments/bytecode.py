"""Compiles environments in the background, so that the second experiment finds bytecode.

uv installs without compiling, and in a read-only environment nobody else can. Compiling up front would make the
first experiment wait; so it starts at once, and beside it the environment is compiled at the lowest priority, in
the order in which this experiment imports (docs/decisions has the figures).
"""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

from studio_runner.environments.cache import EnvironmentCache, Slot
from studio_runner.environments.packages import site_packages
from studio_runner.environments.programs import Programs
from studio_runner.errors import StudioRunnerError
from studio_runner.process.base import Command

logger = logging.getLogger(__name__)

_PROGRAM = Path(__file__).with_name("precompile.py")
_HEAD_START = 0.05
"""Seconds that the experiment gets to be started first."""
_AT_ONCE = 1


class BytecodeCompiler:
    """Owns the background compilations of one runner; `close` ends them at once (they go on another time)."""

    def __init__(self, programs: Programs, cache: EnvironmentCache) -> None:
        self._programs = programs
        self._cache = cache
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, slot: Slot, script: Path | None) -> None:
        """Compile the slot's environment unless that is done or under way, what `script` imports first."""
        key = slot.directory.name
        if key not in self._tasks and not slot.compiled:
            self._tasks[key] = asyncio.create_task(self._compile(key, script), name=f"compile {key}")
            self._tasks[key].add_done_callback(lambda _: self._tasks.pop(key, None))

    async def idle(self) -> None:
        """Until nothing is being compiled."""
        while self._tasks:
            await asyncio.wait(self._tasks.values())

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await self.idle()

    async def _compile(self, key: str, script: Path | None) -> None:
        await asyncio.sleep(_HEAD_START)
        async with self._gate:
            slot = self._cache.find(key)  # an own hold: the experiment may end before this does
            if slot is None:
                return
            try:
                await self._run(slot, script)
            except StudioRunnerError as error:
                logger.warning("bytecode of %s was not compiled: %s", key, error)
            finally:
                slot.close()

    async def _run(self, slot: Slot, script: Path | None) -> None:
        lines: list[str] = []
        code = await self._programs.run(_command(slot, script), lines.append)
        if code == 0 and lines and lines[-1].isdecimal():
            slot.set_compiled(int(lines[-1]))
        else:
            logger.warning("compiling %s ended with %d: %s", slot.directory.name, code, " | ".join(lines[-3:]))


def _command(slot: Slot, script: Path | None) -> Command:
    modules = [name for package in slot.manifest.packages for name in package.modules]
    work: dict[str, Any] = {
        "site": str(site_packages(slot.prefix)),
        "script": None if script is None else str(script),
        "modules": modules,
    }
    argv = (slot.manifest.executable, "-E", "-s", str(_PROGRAM), json.dumps(work))
    return Command(argv, {"LC_ALL": "C.UTF-8"}, slot.directory)
