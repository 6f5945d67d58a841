"""Finding and ending what dead attempts left running.

The second net: a tree normally dies with its runner (`keeper.py`). What slips through (runner, fork server and
supervisor all killed at once) still carries the attempt's id in its environment, or serves a container that is
gone.
"""

import contextlib
import os
import select
import signal
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path

from studio_runner.process.environ import ATTEMPT_VARIABLE
from studio_runner.process.keeper import descendants

_ROUNDS = 100
"""Of killing; each finds what was forked meanwhile. Only something that forks faster than that needs many."""
_PATIENCE_MS = 1000
"""In one round; one in an uninterruptible system call stays longer than anybody waits."""


def sweep(dead: Collection[str]) -> int:
    """Kill every process of the attempts `dead`; how many there were. Blocks until they are gone, so use a thread.

    Does nothing where there is no /proc.
    """
    killed: set[int] = set()
    for _ in range(_ROUNDS):
        found = _of_attempts(dead)
        if not found:
            break
        killed |= found
        _end(found)
    return len(killed)


def sweep_helpers(names: Collection[str], below: Path) -> int:
    """Kill every program of these names that has a file below this directory open and nobody left to serve; how
    many there were. Blocks until they are gone.

    What mounts an image for a container says in its environment nothing of the attempt. But it is in the user
    namespace of that container, alone when that is gone.
    """
    lonely = [pid for pid in _lonely(names) if any(path.is_relative_to(below) for path in _open_files(pid))]
    _end(lonely)
    return len(lonely)


def _lonely(names: Collection[str]) -> list[int]:
    """Processes of these names in user namespaces, other than ours, where only such live."""
    own, helpers, served = _user_namespace(os.getpid()), defaultdict[str, list[int]](list), set[str]()
    for pid in _processes():
        namespace = _user_namespace(pid)
        if _name(pid) in names:
            helpers[namespace].append(pid)
        else:
            served.add(namespace)
    return [pid for namespace in helpers.keys() - served - {own, ""} for pid in helpers[namespace]]


def _user_namespace(pid: int) -> str:
    """Empty for what has ended and for other people's processes."""
    try:
        return str(Path(f"/proc/{pid}/ns/user").readlink())
    except OSError:
        return ""


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""


def _open_files(pid: int) -> list[Path]:
    try:
        return [descriptor.readlink() for descriptor in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []


def _of_attempts(dead: Collection[str]) -> set[int]:
    """Those that carry the id, and those below them, which may have cleaned their environment."""
    marks = {f"{ATTEMPT_VARIABLE}={attempt}".encode() for attempt in dead}
    tagged = [pid for pid in _processes() if marks & set(_environment(pid))]
    return {process for pid in tagged for process in (pid, *descendants(pid))}


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[1-9]*")]


def _environment(pid: int) -> list[bytes]:
    """Empty for zombies, kernel threads and other people's processes."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _end(pids: Iterable[int]) -> None:
    """Kill them and wait for each through a descriptor, which tells its end although it is not our child."""
    gone = select.poll()
    with contextlib.ExitStack() as stack:
        waiting = set[int]()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                stack.callback(os.close, descriptor)
                with contextlib.suppress(PermissionError):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    gone.register(descriptor, select.POLLIN)
                    waiting.add(descriptor)
        while waiting and (ready := gone.poll(_PATIENCE_MS)):
            for descriptor, _ in ready:
                gone.unregister(descriptor)
                waiting.discard(descriptor)
