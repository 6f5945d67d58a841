"""The groups of one runner: `studio-runner.<runner>` in every hierarchy, with a group for each experiment in it.

The runner itself stays outside of them. It holds a lock on its own directories while it lives, so that the next one
can tell what a dead one left.
"""

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from studio_runner.process.cgroups import files
from studio_runner.process.cgroups.alarm import Alarm
from studio_runner.process.cgroups.clearing import PREFIX, clear, locked
from studio_runner.process.cgroups.files import Share
from studio_runner.process.cgroups.group import Group, Part
from studio_runner.process.cgroups.handover import hand_out
from studio_runner.process.cgroups.hierarchy import Found, Hierarchy, memory_limits

log = logging.getLogger(__name__)

_ROOM, _ROOM_SHARE = 512 << 20, 10
"""Memory that experiments leave to the runner: bytes, or this part of what there is when that is less."""


class Groups:
    """Makes the groups of experiments. For one event loop."""

    def __init__(self, parts: Iterable[Part], alarm: Alarm | None) -> None:
        self._parts, self._alarm = tuple(parts), alarm

    def create(self, name: str, share: Share) -> Group:
        """A group for one experiment; one that limits nothing where none can be made, and that is said."""
        made: list[Part] = []
        group = Group((), None, share)
        try:
            for parent in self._parts:
                part = Part(parent.hierarchy, parent.directory / name)
                part.open(share)
                made.append(part)
            group = Group(made, self._alarm, share)
            group.listen()
        except OSError as error:
            log.warning("an experiment runs without control groups: %s", error)
            group.forget()
            for part in made:
                clear(part.directory)
            return Group((), None, share)
        return group


@contextlib.contextmanager
def opened_groups(found: Found, runner: str, total: Share) -> Iterator[Groups]:
    """The groups of this runner until the context ends; all its experiments together have `total`."""
    with ExitStack() as stack:
        parts = []
        for hierarchy in found.hierarchies:
            try:
                parts.append(stack.enter_context(_opened(hierarchy, f"{PREFIX}{runner}", total)))
            except OSError as error:
                log.warning("control groups cannot be used: %s", error)
        alarm = Alarm() if parts else None
        if alarm:
            stack.callback(alarm.close)
        yield Groups(parts, alarm)


@contextlib.contextmanager
def _opened(hierarchy: Hierarchy, name: str, total: Share) -> Iterator[Part]:
    controllers = hand_out(hierarchy.base, hierarchy.controllers) if _shares(hierarchy) else hierarchy.controllers
    part = Part(Hierarchy(hierarchy.version, hierarchy.base, controllers), hierarchy.base / name)
    with _made(part.directory):
        files.write_settings(part.directory, controllers, files.settings(hierarchy.version, total))
        if _shares(hierarchy):
            hand_out(part.directory, controllers)
        yield part


def _shares(hierarchy: Hierarchy) -> bool:
    """Whether controllers have to be handed on from group to group."""
    return hierarchy.version != 1 and bool(hierarchy.controllers)


@contextlib.contextmanager
def _made(directory: Path) -> Iterator[None]:
    """The directory, with the lock on it."""
    while True:
        with contextlib.suppress(FileExistsError):
            directory.mkdir()
        with locked(directory) as ours:
            if not ours or not directory.exists():  # somebody who clears up was quicker than our lock
                continue
            try:
                yield
            finally:
                clear(directory)
            return


def room_for_all(found: Found, wanted: int) -> int:
    """Bytes for all experiments together: `wanted`, unless that is nearly all there is."""
    hierarchy = found.holding("memory")
    machine: int = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    there = min(memory_limits(hierarchy), default=machine) if hierarchy else machine
    there = min(there, machine)
    return min(wanted, there - min(_ROOM, there // _ROOM_SHARE))
