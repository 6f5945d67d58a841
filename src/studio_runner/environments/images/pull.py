"""Has the container runtime pull and unpack images: its words as they come, nothing left of it when it fails."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from studio_runner.environments.base import Log
from studio_runner.environments.images.base import SIF, ImageKind
from studio_runner.environments.images.logins import Login, write_login
from studio_runner.environments.images.reference import Reference
from studio_runner.environments.images.trouble import pull_error
from studio_runner.environments.programs import Programs, clean
from studio_runner.errors import EnvironmentFailedError
from studio_runner.messages.units import format_size
from studio_runner.process.base import Command
from studio_runner.process.environ import clean_environment
from studio_runner.process.limits import disk_usage

PROGRESS = 10.0
"""Seconds between two lines about how much there is already."""

_ROOM = 4
"""A pull has the layers, their content and the image at the same time."""

_NOTHING = "/studio-runner-nothing"
_SILENT = ("squashfuse", "fuse2fs", "gocryptfs", "mksquashfs output", "default keyserver", "Converting OCI blobs")
"""In lines that tell an experimenter nothing."""

FindProgram = Callable[[], str]
"""The path of the runtime's program; EnvironmentFailedError when there is none."""


@dataclass(frozen=True)
class Order:
    """What to pull: to `target`, as a file or a sandbox, with a private home below `work`; `scheme` is https or
    http, `name` what people know the image by."""

    name: str
    reference: Reference
    login: Login | None
    scheme: str
    work: Path
    target: Path
    kind: ImageKind


class Words:
    """Collects the runtime's lines and hands those that tell a reader something on to the experiment's output."""

    def __init__(self, name: str, log: Log, secrets: tuple[str, ...] = ()) -> None:
        self.name = name
        self.log = log
        self._secrets = secrets
        self.lines: list[str] = []

    def take(self, raw: str) -> None:
        line = clean(raw, self._secrets)
        self.lines.append(line)
        level, _, words = line.partition(":")
        if level == "INFO" and not any(part in words for part in _SILENT):
            self.log(words.strip())


class Puller:
    """Runs the runtime. `environ` is the runner's own environment, `limit` (bytes, 0: none) the size an image may
    have."""

    def __init__(self, programs: Programs, find: FindProgram, environ: Mapping[str, str], limit: int) -> None:
        self._programs = programs
        self._find = find
        self._env = {**clean_environment(environ), "LC_ALL": "C"}
        self._limit = limit
        self.progress = PROGRESS

    async def pull(self, order: Order, log: Log) -> None:
        """Get the image, as a SIF file or as a directory. ExperimentError as in `Images.obtain`."""
        home = order.work / "home"
        if order.login and not home.exists():
            write_login(home, order.reference, order.login)
        variables = {"NOHTTPS": "true"} if order.scheme == "http" else {}
        verb = ("pull",) if order.kind == SIF else ("build", "--sandbox")
        argv = (*verb, str(order.target), order.reference.address)
        secrets = order.login.secrets if order.login else ()
        await self._run(argv, variables, order.work, Words(order.name, log, secrets))

    async def unpack(self, image: Path, work: Path, target: Path, name: str, log: Log) -> None:
        """Make a sandbox of an image file."""
        await self._run(("build", "--sandbox", str(target), str(image)), {}, work, Words(name, log))

    async def mounts(self, work: Path) -> bool | None:
        """Whether this account can run image files as they are: where it cannot, the runtime unpacks them at every
        start, or fails, as with squashfuse where /dev/fuse cannot be opened. None when that cannot be tried.

        With an image that is as good as empty: nothing of a stranger's runs before it is shut off, and what is
        missing is a program in it.
        """
        words = Words("", lambda _: None)
        probe, image = work / "probe", work / "probe.sif"
        (probe / "bin").mkdir(parents=True)
        if await self._programs.run(self._command(("build", str(image), str(probe)), {}, work), words.take):
            return None
        await self._programs.run(
            self._command(("exec", "--containall", str(image), _NOTHING), {}, work), words.take
        )
        unpacked = any("temporary sandbox" in line for line in words.lines)
        return not unpacked and any(_NOTHING in line for line in words.lines)

    async def _run(self, argv: Sequence[str], variables: Mapping[str, str], work: Path, words: Words) -> None:
        async with self.watched(work, words):
            code = await self._programs.run(self._command(argv, variables, work), words.take)
        if code:
            raise pull_error(words.name, words.lines)

    @asynccontextmanager
    async def watched(self, work: Path, words: Words) -> AsyncIterator[None]:
        """Tell now and then how much is below `work`; when that is too much, the body ends with
        EnvironmentFailedError."""
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch(work, words), name="watch an image on its way")
                try:
                    yield
                finally:
                    watching.cancel()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None  # the first of them ended the other

    def _command(self, argv: Sequence[str], variables: Mapping[str, str], work: Path) -> Command:
        home, temporary = work / "home", work / "tmp"
        for directory in (home, temporary):
            directory.mkdir(mode=0o700, exist_ok=True)
        own = {
            "TMPDIR": str(temporary),
            "CACHEDIR": str(work / "cache"),
            "DISABLE_CACHE": "true",
            **variables,
        }
        env = {f"{kind}_{name}": value for name, value in own.items() for kind in ("APPTAINER", "SINGULARITY")}
        return Command(
            (self._find(), *argv), {**self._env, **env, "HOME": str(home), "TMPDIR": str(temporary)}, work
        )

    async def _watch(self, work: Path, words: Words) -> None:
        """Say how much there is already, and put an end to what is too much."""
        before = 0
        while True:
            await asyncio.sleep(self.progress)
            size = await asyncio.to_thread(disk_usage, work)
            if self._limit and size > _ROOM * self._limit:
                raise too_large(words.name, self._limit)
            if size != before:
                words.log(f"{words.name}: {format_size(size)} so far")
            before = size


def too_large(name: str, limit: int) -> EnvironmentFailedError:
    """No image may be larger than all of them together."""
    return EnvironmentFailedError(
        f"The image {name} is larger than {format_size(limit)}, which is all that images may take here",
        hint="make it smaller, or ask the operator for a larger --image-cache-size",
    )
