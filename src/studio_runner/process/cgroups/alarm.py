"""Hearing from the kernel that something happened in a group."""

import asyncio
import contextlib
import os
import select
from collections.abc import Callable
from pathlib import Path

from studio_runner.process.cgroups.files import write

_QUIET = 0.1
"""Seconds before the same file is listened to again: a group at its limit that goes on giving back cached pages
would ring all the time."""
_LOOK = 0.5
"""Seconds between two looks at files that do not ring."""
_MOST = 256
"""Events taken at once."""
_SIZE = 4096

Ring = Callable[[], None]


class Alarm:
    """One descriptor for the groups of a runner. Rings once too often rather than once too little."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._rings: dict[int, Ring] = {}
        self._silent: dict[int, bytes] = {}
        """Files that are looked at, and what was last in them."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._poll.fileno(), self._ready)
        self._next_look: asyncio.TimerHandle | None = None

    def close(self) -> None:
        self._loop.remove_reader(self._poll.fileno())
        self._poll.close()
        for descriptor in list(self._rings):
            self.forget(descriptor)

    def watch_events(self, path: Path, ring: Ring) -> int:
        """Ring when a version 2 file of events changes. Returns what `forget` takes."""
        descriptor = _opened(path)
        os.pread(descriptor, _SIZE, 0)  # what changes from here on
        return self._register(descriptor, select.EPOLLPRI, ring)

    def watch_silent(self, path: Path, ring: Ring) -> int:
        """Ring when a version 1 file is found changed: the kernel tells nobody of `pids.events` there."""
        descriptor = _opened(path)
        self._silent[descriptor] = os.pread(descriptor, _SIZE, 0)
        self._rings[descriptor] = ring
        if self._next_look is None:
            self._next_look = self._loop.call_later(_LOOK, self._look)
        return descriptor

    def watch_memory(self, group: Path, ring: Ring) -> int:
        """Ring when a version 1 group, or one around it, is out of memory; then nobody may have been killed yet."""
        descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            with (group / "memory.oom_control").open("rb") as watched:
                write(group / "cgroup.event_control", f"{descriptor} {watched.fileno()}")
        except BaseException:
            os.close(descriptor)
            raise
        return self._register(descriptor, select.EPOLLIN, ring)

    def forget(self, descriptor: int) -> None:
        if self._rings.pop(descriptor, None):
            self._silent.pop(descriptor, None)
            os.close(descriptor)  # which takes it out of the poll

    def _register(self, descriptor: int, event: int, ring: Ring) -> int:
        self._poll.register(descriptor, event | select.EPOLLONESHOT)
        self._rings[descriptor] = ring
        return descriptor

    def _ready(self) -> None:
        for descriptor, found in self._poll.poll(0, _MOST):
            if ring := self._rings.get(descriptor):
                event = select.EPOLLIN if found & select.EPOLLIN else select.EPOLLPRI
                self._loop.call_later(_QUIET, self._again, descriptor, event, ring)
                ring()

    def _again(self, descriptor: int, event: int, ring: Ring) -> None:
        """Listen again, and ring for what came meanwhile."""
        if self._rings.get(descriptor) is not ring:
            return
        if event == select.EPOLLPRI:
            os.pread(descriptor, _SIZE, 0)
        else:
            with contextlib.suppress(BlockingIOError):
                os.read(descriptor, 8)
        self._poll.modify(descriptor, event | select.EPOLLONESHOT)
        ring()

    def _look(self) -> None:
        self._next_look = self._loop.call_later(_LOOK, self._look) if self._silent else None
        for descriptor, before in list(self._silent.items()):
            now = os.pread(descriptor, _SIZE, 0)
            if now != before:
                self._silent[descriptor] = now
                self._rings[descriptor]()


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
