"""Whether containers start here at all. Where they do not, messages that bring one are for other runners."""

import asyncio
import os
from pathlib import Path

from studio_runner.environments.containers.isolation import Box
from studio_runner.environments.containers.launch import Launch
from studio_runner.environments.containers.runtime import Runtimes
from studio_runner.environments.containers.trial import start_nothing
from studio_runner.environments.containers.workroom import workroom
from studio_runner.errors import EnvironmentFailedError, EnvironmentUnavailableError

PATIENCE = 30.0
"""Seconds that starting an empty container may take; after that nobody knows."""

_Key = tuple[str, int]


class Readiness:
    """What is known of the runtime that `runtimes` finds: it is tried once, and again when it was exchanged.
    `directory` is where things may be kept meanwhile, `network` whether containers have the host's."""

    def __init__(self, runtimes: Runtimes, directory: Path, *, network: bool) -> None:
        self._runtimes, self._directory, self._network = runtimes, directory, network
        self._known: tuple[_Key, EnvironmentFailedError | None] | None = None
        self._trying = asyncio.Lock()

    def runtime(self) -> str:
        """Its path; EnvironmentFailedError when there is none, or one that was tried in vain."""
        path = self._runtimes.path()
        if self._known and self._known[0] == _key(path) and (trouble := self._known[1]):
            raise type(trouble)(str(trouble), hint=trouble.hint)
        return path

    async def tried(self) -> None:
        """Until it is known, as far as it can be."""
        async with self._trying:
            try:
                key = _key(self._runtimes.path())
            except EnvironmentFailedError:
                return  # it is looked for whenever somebody asks
            if self._known is None or self._known[0] != key:
                trouble = await self._trouble()
                if not isinstance(trouble, EnvironmentUnavailableError):
                    self._known = key, trouble

    async def _trouble(self) -> EnvironmentFailedError | None:
        try:
            async with asyncio.timeout(PATIENCE):
                return (await try_out(self._runtimes, self._directory, network=self._network))[1]
        except EnvironmentFailedError as error:
            return error
        except (OSError, TimeoutError) as error:
            return EnvironmentUnavailableError(f"Nobody knows whether containers start here: {error}")


async def try_out(
    runtimes: Runtimes, directory: Path, *, network: bool
) -> tuple[str, EnvironmentFailedError | None]:
    """What the runtime calls itself, and why an empty container does not start. EnvironmentFailedError when there
    is no runtime that can be used, OSError when nothing can be kept in the directory."""
    with workroom(directory) as room:
        runtime = await runtimes.find()
        for name in ("scratch", "place"):
            (room / name).mkdir()
        launch = Launch(runtime, room / "scratch", runtimes.environ, os.geteuid())
        box = Box(room / "place", network=network)
        return runtime.said, await start_nothing(runtimes.programs, launch, box, room / "image")


def _key(path: str) -> _Key:
    try:
        return path, os.stat(path).st_mtime_ns  # noqa: PTH116 - whenever a message is looked at
    except OSError:
        return path, 0
