"""Virtual environments for the interpreter of an image, built in a container of it.

They see what the image has installed. Built once for an image and a list, kept like any other environment, and only
read by experiments.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from studio_runner.environments.base import Environment, EnvironmentSpec, Log
from studio_runner.environments.builder import Builder
from studio_runner.environments.cache import EnvironmentCache, Manifest, Slot, boot_id, guards
from studio_runner.environments.containers.contents import ImagePython
from studio_runner.environments.containers.isolation import PRIVATE, Box
from studio_runner.environments.containers.launch import Launch
from studio_runner.environments.files import make_read_only, remove_tree
from studio_runner.environments.images.base import Image
from studio_runner.environments.indexes import Indexes, IndexReader
from studio_runner.environments.interpreters import Interpreter
from studio_runner.environments.packages import installed, site_packages
from studio_runner.environments.plan import Plan, make_plan
from studio_runner.environments.programs import Programs
from studio_runner.environments.uninterrupted import uninterrupted
from studio_runner.environments.uv import uv_binary
from studio_runner.errors import EnvironmentFailedError, EnvironmentUnavailableError
from studio_runner.process.base import Command
from studio_runner.process.environ import clean_environment, contained_environment

_INSTALLER = {"UV_COMPILE_BYTECODE": "1", "UV_LINK_MODE": "copy"}
"""Nobody can write bytecode there later, and uv's cache is the container's own."""


class Inside:
    """Environments below `directory`, at most `budget` bytes of them (0: no limit). `environ` is the runner's own
    environment, which has the operator's configuration of package indexes."""

    def __init__(self, directory: Path, budget: int, programs: Programs, environ: Mapping[str, str]) -> None:
        self._cache = EnvironmentCache(directory, budget)
        self._programs = programs
        self._indexes = IndexReader(environ)
        self._environ = {**contained_environment(clean_environment(environ))}

    @asynccontextmanager
    async def prepared(
        self, spec: EnvironmentSpec, python: ImagePython, image: Image, launch: Launch, log: Log
    ) -> AsyncIterator[Slot]:
        """The environment, in use until the context ends. EnvironmentFailedError when it cannot be built."""
        plan = _plan(spec, python, image, self._indexes.read())
        for note in plan.notes:
            log(note)
        try:
            slot = self._cache.find(plan.key) or await self._built(plan, image, launch, log)
        except OSError as error:
            raise EnvironmentUnavailableError(
                f"The environment cannot be kept on this machine: {error}",
                hint="The runner's cache directory must be writable, and its disk must not be full.",
            ) from error
        try:
            yield slot
        finally:
            slot.close()

    async def _built(self, plan: Plan, image: Image, launch: Launch, log: Log) -> Slot:
        waiting = "the same environment is being built for another experiment; waiting for it"
        async with self._cache.build(plan.key, lambda: log(waiting)) as slot:
            if not slot.published:
                log(f"building an environment of {plan.interpreter} in the container")
                await self._build(plan, image, launch, slot, log)
            slot.share()
        await uninterrupted(asyncio.to_thread(self._cache.evict))
        return slot

    async def _build(self, plan: Plan, image: Image, launch: Launch, slot: Slot, log: Log) -> None:
        work = slot.directory / "work"
        work.mkdir()
        box = Box(slot.directory, shown=(uv_binary(), *_operators_files(plan.indexes)))

        def contained(command: Command) -> Command:
            variables = {name: value for name, value in command.env.items() if name != "PATH"} | _INSTALLER
            return launch.command(("exec", str(image.path), *command.argv), box, variables, command.cwd)

        try:
            builder = Builder(self._programs.through(contained), work, self._environ, _too_old)
            await builder.build(plan, slot.directory, log)
            await uninterrupted(asyncio.to_thread(_publish, slot, plan))
        finally:
            for path in (work, slot.directory / PRIVATE):
                await uninterrupted(asyncio.to_thread(remove_tree, path))


def _plan(spec: EnvironmentSpec, python: ImagePython, image: Image, indexes: Indexes) -> Plan:
    """As for an interpreter of this machine, but nothing of this machine's files is looked at."""
    version = ".".join(map(str, python.version))
    unknown = Interpreter(f"/{image.digest}", version, "final", "python", False, image.digest, "", python.path)
    plan = make_plan(spec, unknown, indexes)
    return replace(plan, interpreter=replace(unknown, path=python.path))


def _operators_files(indexes: Indexes) -> Iterator[Path]:
    """What the operator's configuration of indexes names on this machine's disk."""
    sources, transport = indexes.sources, indexes.transport
    named = (
        *(sources.default or "", *sources.extra, *sources.find_links, *indexes.choices.constraints),
        *(transport.certificates or "", transport.client_certificate or ""),
    )
    for place in dict.fromkeys(named):
        path = Path(unquote(urlsplit(place).path) if place.startswith("file:") else place)
        if path.is_absolute() and path.exists():
            yield path


def _too_old(_log: Log) -> AbstractAsyncContextManager[Environment]:
    raise EnvironmentFailedError(
        "Requirements cannot be installed for this image's Python: it must be 3.6 or newer",
        hint="Use an image that has what the script needs, and leave pythonenv out.",
    )


def _publish(slot: Slot, plan: Plan) -> None:
    configuration = slot.prefix / "pyvenv.cfg"
    text = configuration.read_text(encoding="utf-8")
    shown = text.replace("include-system-site-packages = false", "include-system-site-packages = true")
    configuration.write_text(shown, encoding="utf-8")
    site = site_packages(slot.prefix)
    packages = installed(site)
    make_read_only(slot.prefix)
    slot.publish(
        Manifest(
            python=str(plan.interpreter),
            executable=str(slot.prefix / "bin/python"),
            packages=packages,
            guards=guards(slot.prefix, (os.path.relpath(site, slot.prefix),)),
            boot=boot_id(),
        )
    )
