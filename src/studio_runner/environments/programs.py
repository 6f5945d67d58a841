"""Runs installers: their lines as they come, their whole process tree gone whatever happens."""

import asyncio
import os
import re
from collections.abc import Callable, Iterable

from studio_runner.environments.requirements import mask_url
from studio_runner.environments.uninterrupted import uninterrupted
from studio_runner.process.base import Command
from studio_runner.process.limits import Limits
from studio_runner.process.spawn import Spawner

_READ = 65536
_LONGEST_LINE = 1 << 16
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")

Lines = Callable[[str], None]
Wrap = Callable[[Command], Command]


class Programs:
    """Starts programs through the runner's spawner, so that none outlives the runner."""

    def __init__(self, spawner: Spawner, wrap: Wrap | None = None) -> None:
        self._spawner = spawner
        self._wrap = wrap

    def through(self, wrap: Wrap) -> "Programs":
        """The same, but what is run is what `wrap` makes of a command."""
        return Programs(self._spawner, wrap)

    async def run(self, command: Command, take: Lines) -> int:
        """Run to the end, hand every line of output to `take`; the exit code (a signal's is negative).

        Cancelled, it kills the program with everything it started before it lets go.
        """
        command = self._wrap(command) if self._wrap else command
        read, write = os.pipe()
        try:
            try:
                process = await self._spawner.spawn(command, write, Limits())
            finally:
                os.close(write)
            try:
                await _read_lines(read, take)
                end = await process.wait()
            finally:
                process.kill()
                await uninterrupted(process.until_gone())
        finally:
            os.close(read)
        return end.code if end.code is not None else -(end.signal or 0)


def clean(line: str, secrets: Iterable[str]) -> str:
    """A line fit for people: no escapes, of a progress line only its last state, no credentials."""
    text = _ESCAPES.sub("", line.rstrip().rpartition("\r")[2]).rstrip()
    for secret in secrets:
        text = text.replace(secret, "***")
    return mask_url(text)


async def _read_lines(descriptor: int, take: Lines) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_LONGEST_LINE)
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(descriptor), "rb", buffering=0)
    )
    try:
        pending = b""
        while data := await reader.read(_READ):
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                take(line.decode("utf-8", "replace"))
            if len(pending) > _LONGEST_LINE:
                pending = pending[-_LONGEST_LINE:]
        if pending:
            take(pending.decode("utf-8", "replace"))
    finally:
        transport.close()
