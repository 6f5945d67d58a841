"""The provider of containers: an image, an interpreter in it, and the command that runs both shut off."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from studio_runner.environments.base import EnvironmentSpec, Installed, Log
from studio_runner.environments.cache import Slot
from studio_runner.environments.containers.contents import (
    Contents,
    ImagePython,
    Memory,
    questions,
    read_answers,
    require_python,
)
from studio_runner.environments.containers.failure import explained, fatal_words, is_about_room
from studio_runner.environments.containers.inside import Inside
from studio_runner.environments.containers.isolation import Box
from studio_runner.environments.containers.launch import Launch
from studio_runner.environments.containers.runtime import Runtime, Runtimes
from studio_runner.environments.containers.workroom import workroom
from studio_runner.environments.files import remove_tree
from studio_runner.environments.images.base import Image, Images, ImageSource
from studio_runner.environments.uninterrupted import uninterrupted
from studio_runner.errors import EnvironmentFailedError, EnvironmentUnavailableError
from studio_runner.process.base import Command

PATIENCE = 120.0
"""Seconds that an image has to tell which interpreters it has."""

_IGNORED = "the requirements (pythonenv) are left out: the container is expected to have what the script needs"


@dataclass(frozen=True)
class ContainerSpec:
    """What a request asks of its container. `environment.python` is a version prefix; None as `environment`: the
    image's own program is run."""

    box: Box
    environment: EnvironmentSpec | None


@dataclass(frozen=True)
class Interpreter:
    """What runs a script: the image's Python, or that of an environment built for it in the directory `prefix`."""

    name: str
    path: str
    packages: tuple[Installed, ...]
    prefix: Path | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def shown(self) -> tuple[Path, ...]:
        """What must be seen of this machine for it."""
        return (self.prefix,) if self.prefix else ()

    def variables(self, env: Mapping[str, str]) -> dict[str, str]:
        """With the programs of the environment before those of the image."""
        if self.prefix is None:
            return dict(env)
        programs = str(self.prefix / "bin")
        path = {"PATH": f"{programs}:{env['PATH']}"} if "PATH" in env else {"PREPEND_PATH": programs}
        return {**env, **path, "VIRTUAL_ENV": str(self.prefix)}


def _of_image(python: ImagePython) -> Interpreter:
    return Interpreter(str(python), python.path, python.packages)


def _of_slot(slot: Slot, python: ImagePython) -> Interpreter:
    """Its own packages hide those of the image."""
    own = slot.manifest.packages
    names = {package.name.lower() for package in own}
    others = (package for package in python.packages if package.name.lower() not in names)
    return Interpreter(str(python), slot.manifest.executable, (*own, *others), slot.prefix)


class Container:
    """A prepared container, not started yet."""

    def __init__(self, image: Image, box: Box, launch: Launch, python: Interpreter | None) -> None:
        self._image, self._box, self._launch, self._python = image, box, launch, python

    @property
    def name(self) -> str:
        return f"container {self._image.name}, {self._python or 'its own program'}"

    def packages(self) -> Sequence[Installed]:
        """Those of the image."""
        return self._python.packages if self._python else ()

    def command(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> Command:
        """As that of any environment; where the image's own program is run, all of `argv` are its arguments."""
        image = str(self._image.path)
        if self._python is None:
            return self._launch.command(("run", image, *argv), self._box, env, cwd)
        box, own = self._box, self._python.variables(env)
        box = replace(box, shown=(*box.shown, *self._python.shown))
        return self._launch.command(("exec", image, self._python.path, *argv), box, own, cwd)

    def not_started(self, code: int | None, output: bytes) -> EnvironmentFailedError | None:
        words = fatal_words(code, output)
        return None if words is None else not_started(words, self._image)


class Containers:
    """Containers of images that `images` has, run by what `runtimes` finds. `cache_dir` remembers what is in them;
    `inside` builds environments for them, where the operator wants that. An async context manager."""

    def __init__(self, cache_dir: Path, images: Images, runtimes: Runtimes, inside: Inside | None = None) -> None:
        self._directory = cache_dir / "containers"
        self._images = images
        self._runtimes = runtimes
        self._inside = inside
        self._memory = Memory(self._directory)
        self._room = Path()
        self._stack = ExitStack()

    async def __aenter__(self) -> Self:
        self._room = await asyncio.to_thread(self._stack.enter_context, workroom(self._directory))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._stack.close)

    def prepare(self, spec: ContainerSpec, source: ImageSource, log: Log) -> AbstractAsyncContextManager[Container]:
        """The container, its image in use until the context ends. Errors are those of `Images.obtain`, and
        EnvironmentFailedError when it cannot be run here."""
        return self._prepare(spec, source, log)

    @asynccontextmanager
    async def _prepare(self, spec: ContainerSpec, source: ImageSource, log: Log) -> AsyncIterator[Container]:
        runtime = await self._runtimes.find()
        async with self._images.obtain(source, log) as image, self._launch(runtime) as launch:
            if spec.environment is None:
                yield Container(image, spec.box, launch, None)
                return
            async with self._interpreter(image, launch, spec.environment, log) as interpreter:
                yield Container(image, spec.box, launch, interpreter)

    @asynccontextmanager
    async def _launch(self, runtime: Runtime) -> AsyncIterator[Launch]:
        """With a directory of its own, where a runtime that cannot mount an image unpacks it."""
        try:
            scratch = Path(tempfile.mkdtemp(dir=self._room))
        except OSError as error:
            raise EnvironmentUnavailableError(
                f"No container can be prepared in {self._room}: {error.strerror}", hint="The disk may be full."
            ) from error
        try:
            yield Launch(runtime, scratch, self._runtimes.environ, os.geteuid())
        finally:
            await uninterrupted(asyncio.to_thread(remove_tree, scratch))

    @asynccontextmanager
    async def _interpreter(
        self, image: Image, launch: Launch, wanted: EnvironmentSpec, log: Log
    ) -> AsyncIterator[Interpreter]:
        contents = await self._contents(image, launch)
        python, note = require_python(contents, wanted.python, image)
        if note:
            log(note)
        if self._inside is None or not (wanted.requirements or wanted.extra):
            if wanted.requirements or wanted.extra:
                log(_IGNORED)
            yield _of_image(python)
            return
        async with self._inside.prepared(wanted, python, image, launch, log) as slot:
            yield _of_slot(slot, python)

    async def _contents(self, image: Image, launch: Launch) -> Contents:
        """What interpreters the image has; asked once, whoever waits for it."""
        async with self._memory.turn(image):
            known = self._memory.get(image)
            if known is None:
                known = await self._ask(image, launch)
                self._memory.put(image, known)
            return known

    async def _ask(self, image: Image, launch: Launch) -> Contents:
        contents = Contents(())
        for question in questions():
            contents = read_answers(await self._answer(image, launch, question))
            if contents.pythons:
                break
        return contents

    async def _answer(self, image: Image, launch: Launch, question: Sequence[str]) -> list[str]:
        lines: list[str] = []
        with tempfile.TemporaryDirectory(dir=self._room) as directory:
            box = Box(Path(directory), network=False)
            command = launch.command(("exec", str(image.path), *question), box, {}, box.directory)
            try:
                async with asyncio.timeout(PATIENCE):
                    code = await self._runtimes.programs.run(command, lines.append)
            except TimeoutError as error:
                raise EnvironmentFailedError(
                    f"The image {image.name} did not tell in {PATIENCE:g} s which interpreters it has",
                    hint="Look whether its Python starts at all.",
                ) from error
        words = fatal_words(code, "\n".join(lines).encode())
        if words is not None and question[0] not in words:  # else the image has no program of that name
            raise not_started(words, image)
        return lines


def not_started(words: str, image: Image) -> EnvironmentFailedError:
    """What the runtime says when there is no container, as an error."""
    sentence, hint = explained(words, image.path)
    kind = EnvironmentUnavailableError if is_about_room(words) else EnvironmentFailedError
    return kind(sentence, hint=hint)
