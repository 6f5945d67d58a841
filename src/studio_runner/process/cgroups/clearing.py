"""Ending the members of groups and removing the groups: those of this runner, and those that dead runners left."""

import contextlib
import fcntl
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from studio_runner.process.cgroups.files import write
from studio_runner.process.cgroups.hierarchy import OWN_LEAF, Hierarchy, members

log = logging.getLogger(__name__)

PREFIX = "studio-runner."
"""Groups of runners begin so; what follows is the runner's name."""
_PATIENCE = 10.0
"""Seconds for the members of one group; a process inside a dead network file system ends when that comes back."""
_PAUSE = 0.01


def clear(directory: Path) -> int:
    """Kill every member of the group and of those below, and remove them; how many were killed. Blocks.

    Said, not raised, when something resists.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + _PATIENCE
    while not _gone(directory):
        found = {pid for group in _groups(directory) for pid in members(group)} - {0, os.getpid()}
        killed |= found
        _kill(directory, found)
        if time.monotonic() > deadline:
            log.warning("the control group %s could not be removed; in it are still %s", directory, sorted(found))
            break
        time.sleep(_PAUSE)  # the end of a process that is not our child has no event in version 1
    return len(killed)


def clear_leftovers(hierarchies: tuple[Hierarchy, ...]) -> int:
    """Clear the groups of runners that died; how many processes were still in them. Blocks."""
    return sum(_clear_dead(hierarchy.base) for hierarchy in hierarchies)


def _clear_dead(base: Path) -> int:
    killed = 0
    for directory in sorted(base.glob(f"{PREFIX}*")):
        if directory.name != OWN_LEAF:
            with locked(directory) as free:
                killed += clear(directory) if free else 0
    return killed


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[bool]:
    """Hold the lock by which the owner of a group is alive, if it is free: the kernel drops it at its death."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # gone meanwhile
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def _kill(directory: Path, pids: set[int]) -> None:
    with contextlib.suppress(OSError):
        write(directory / "pids.max", "0")
    with contextlib.suppress(OSError):
        write(directory / "cgroup.kill", "1")
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _gone(directory: Path) -> bool:
    """Remove it, and what is below it first."""
    for group in _groups(directory):
        with contextlib.suppress(OSError):
            group.rmdir()
    return not directory.exists()


def _groups(directory: Path) -> list[Path]:
    """It and the groups below it, the deepest first."""
    return [Path(path) for path, _, _ in os.walk(directory, topdown=False)]
