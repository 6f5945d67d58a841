"""Finding and ending what dead attempts left running.

The second net: a tree normally dies with its runner (`keeper.py`). What slips through (runner, fork server and
supervisor all killed at once) still carries the attempt's id in its environment.
"""

import contextlib
import os
import select
import signal
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
