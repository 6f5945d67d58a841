"""The group of one experiment: a directory of the same name in every hierarchy."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from studio_runner.process.cgroups import files
from studio_runner.process.cgroups.alarm import Alarm
from studio_runner.process.cgroups.clearing import clear
from studio_runner.process.cgroups.files import Counters, Share
from studio_runner.process.cgroups.hierarchy import MEMORY, PIDS, Hierarchy
from studio_runner.process.limits import Membership


class Breach(Enum):
    """What a group had too much of."""

    MEMORY = auto()
    """The kernel has killed a member: the group, or all of the runner's together, reached the limit."""
    PROCESSES = auto()
    """A member was refused a process or thread."""


@dataclass(frozen=True)
class Part:
    """The group's directory in one hierarchy."""

    hierarchy: Hierarchy
    directory: Path

    def open(self, share: Share) -> None:
        """Make it with these limits; OSError leaves nothing behind."""
        self.directory.mkdir()
        try:
            version, controllers = self.hierarchy.version, self.hierarchy.controllers
            files.write_settings(self.directory, controllers, files.settings(version, share))
            if version != 1:
                files.write_settings(self.directory, controllers, iter([files.together()]))
        except OSError:
            self.directory.rmdir()
            raise


class Group:
    """Made by `Groups.create`; without parts it limits nothing, and everything about it is empty."""

    def __init__(self, parts: Sequence[Part], alarm: Alarm | None, share: Share) -> None:
        self._parts, self._alarm, self.share = tuple(parts), alarm, share
        self._breached: asyncio.Future[Breach] = asyncio.get_running_loop().create_future()
        self._watched: list[int] = []

    @property
    def membership(self) -> Membership:
        """How a process becomes a member, and how all of them are killed."""
        return Membership(
            join=tuple(str(part.directory / files.entry_file(part.hierarchy)) for part in self._parts),
            birth=next((str(part.directory) for part in self._parts if part.hierarchy.version == 2), ""),
            kill=tuple(order for part in self._parts for order in files.killing(part.directory, part.hierarchy)),
        )

    def holds(self, controller: str) -> bool:
        """Whether the kernel limits by this controller here."""
        return any(controller in part.hierarchy.controllers for part in self._parts)

    def listen(self) -> None:
        """From here on, hear of it when a limit is reached. OSError when the kernel cannot be listened to."""
        alarm = self._alarm
        if alarm is None:
            return
        for part in self._parts:
            held, first = part.hierarchy.controllers, part.hierarchy.version == 1
            if MEMORY in held and first:
                self._watched.append(alarm.watch_memory(part.directory, self._ring))
            elif MEMORY in held:
                self._watched.append(alarm.watch_events(part.directory / "memory.events", self._ring))
            if PIDS in held:
                watch = alarm.watch_silent if first else alarm.watch_events
                self._watched.append(watch(part.directory / "pids.events", self._ring))

    async def breached(self) -> Breach:
        """Wait until a limit was reached."""
        return await asyncio.shield(self._breached)

    def look(self) -> Breach | None:
        """Whether a limit was reached so far."""
        counted = self.counters()
        if counted.oom_kills:
            return Breach.MEMORY
        return Breach.PROCESSES if counted.refused_forks else None

    def counters(self) -> Counters:
        """What has happened, over all hierarchies."""
        found = [files.counters(part.directory, part.hierarchy) for part in self._parts]
        return Counters(
            oom_kills=sum(one.oom_kills for one in found),
            refused_forks=sum(one.refused_forks for one in found),
            peak=max((one.peak for one in found), default=0),
        )

    def forget(self) -> None:
        """Hear of it no longer."""
        for descriptor in self._watched:
            if self._alarm:
                self._alarm.forget(descriptor)
        self._watched.clear()

    async def remove(self) -> None:
        """Its members have ended; one that has not is killed."""
        self.forget()
        remaining = [part for part in self._parts if not _removed(part.directory)]
        if remaining:
            await asyncio.to_thread(lambda: [clear(part.directory) for part in remaining])

    def _ring(self) -> None:
        if not self._breached.done() and (breach := self.look()):
            self._breached.set_result(breach)


def _removed(directory: Path) -> bool:
    with contextlib.suppress(OSError):
        directory.rmdir()
    return not directory.exists()
