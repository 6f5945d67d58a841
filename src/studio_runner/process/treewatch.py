"""Watching the memory and the number of processes of trees that the kernel does not limit.

One task looks after all trees of a runner, within one budget of processor time: the more of them, and the larger
they are, the later it looks again.
"""

import asyncio
import math
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import TracebackType

from studio_runner.process.keeper import before_others, outweigh
from studio_runner.process.limits import Tree, memory
from studio_runner.process.watcher import Watcher

_NEAR, _FAR, _IDLE = 0.05, 0.5, 3.0
"""Longest time in seconds between two looks at a tree: over half of its limit, below, and if besides its memory
does not change any more."""
_TICK = 0.25
"""Longest time between two rounds; one in which nothing is due costs a read of a small file."""
_DUTY = 0.001
"""Looking may take this share of a core, all trees together."""
_LATE = 5.0
"""Seconds that a look may be late for the budget's sake."""
_SAVING = 0.5
"""Seconds without a look when the budget is spent."""
_SAVED = 0.02
"""Seconds of processor time that may be saved up."""


@dataclass(eq=False)
class _Watched:
    """A tree, what it may have (0: anything), and what was seen of it."""

    tree: Tree
    memory: int
    processes: int
    exceeded: "asyncio.Future[Excess]"
    due: float = 0.0
    pause: float = _NEAR
    used: int = 0
    count: int = 0
    forks: int = 0
    """Of the machine, when `count` was taken."""

    def look(self, now: float, forks: int) -> "Excess | None":
        pids = self.tree.pids()
        before, self.used = self.used, memory(pids, self.memory) if self.memory else 0
        self.count, self.forks = sum(map(_threads, pids)), forks
        self.pause = self._pause(before)
        self.due = now + self.pause
        found = Excess(self.used if self.memory else 0, self.count if self.processes else 0)
        return found if found.memory > self.memory or found.processes > self.processes else None

    @property
    def enough(self) -> float:
        """After so many processes started on this machine, this tree may have too many."""
        return self.forks + self.processes - self.count if self.processes else math.inf

    def _pause(self, before: int) -> float:
        if not self.memory:
            return math.inf
        if self.used > self.memory / 2:
            return _NEAR
        if abs(self.used - before) > self.memory / 100:
            return min(self.pause, _FAR)
        return min(self.pause * 1.5, _IDLE)


@dataclass(frozen=True)
class Excess:
    """What a tree had when it had too much: bytes, processes and threads; 0 for what is not watched."""

    memory: int
    processes: int


@dataclass
class _Budget:
    """Processor time that may be spent."""

    since: float
    left: float = _SAVED

    def allows(self, now: float) -> bool:
        self.left = min(_SAVED, self.left + (now - self.since) * _DUTY)
        self.since = now
        return self.left > 0

    def spend(self, seconds: float) -> None:
        self.left -= seconds


class TreeWatch(Watcher):
    """Looks after all trees of a runner."""

    def __init__(self) -> None:
        super().__init__()
        self._watched: set[_Watched] = set()
        self._wanted = asyncio.Event()
        self._forks = _Forks()
        self._due, self._enough = 0.0, 0.0
        """The first moment, and the least number of forks, at which there is something to look at."""
        self._outweighs = False

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, traceback)
        if self._outweighs:
            outweigh(0)

    async def excess(self, tree: Tree, memory: int, processes: int) -> Excess:
        """Wait until the tree has more bytes of memory or more processes and threads than this (0: any number)."""
        self._require_alive()
        watched = _Watched(tree, memory, processes, asyncio.get_running_loop().create_future())
        if processes and not self._outweighs:
            outweigh()  # a tree may have thousands before anybody looks
            self._outweighs = True
        self._watched.add(watched)
        self._due = 0.0
        self._wanted.set()
        try:
            return await watched.exceeded
        finally:
            self._watched.discard(watched)

    def _awaited(self) -> list["asyncio.Future[Excess]"]:
        return [one.exceeded for one in self._watched]

    async def _run(self) -> None:
        budget = _Budget(time.monotonic())
        while True:
            if not self._watched:
                self._wanted.clear()
                await self._wanted.wait()
            now, forks = time.monotonic(), self._forks.total()
            if now >= self._due or forks > self._enough:
                self._round(budget, now, forks)
            await asyncio.sleep(min(_TICK, max(_NEAR, self._due - now)))

    def _round(self, budget: _Budget, now: float, forks: int) -> None:
        """Look at those that are due, the longest waiting first, while the budget lasts; and at those that may have
        too many processes by now."""
        spent = False
        due = [one for one in self._watched if one.due <= now or one.enough < forks]
        for watched in sorted(due, key=lambda one: one.due):
            grown = watched.enough < forks
            if not grown and watched.due + _LATE > now and not budget.allows(now):
                spent = True
                break
            started = time.thread_time()
            with before_others() if grown else nullcontext():
                excess = watched.look(now, forks)
            budget.spend(time.thread_time() - started)
            if excess and not watched.exceeded.done():
                watched.exceeded.set_result(excess)
        self._due = now + _SAVING if spent else min((one.due for one in self._watched), default=math.inf)
        self._enough = min((one.enough for one in self._watched), default=math.inf)


@dataclass
class _Forks:
    """Counts the processes and threads started on this machine, by the number that the last one got."""

    last: int = 0
    counted: int = 0
    numbers: int = field(default_factory=lambda: int(_first("/proc/sys/kernel/pid_max") or 1 << 22))

    def total(self) -> int:
        """So far. Never too few, unless all numbers were used up between two calls."""
        last = int((_first("/proc/loadavg") or b"0").split()[-1])
        self.counted += (last - self.last) % self.numbers
        self.last = last
        return self.counted


def _first(path: str) -> bytes:
    """What a small file says; nothing where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, 200)
    finally:
        os.close(descriptor)


def _threads(pid: int) -> int:
    """Of a process; the directory has a link from each."""
    try:
        return os.stat(f"/proc/{pid}/task").st_nlink - 2  # noqa: PTH116 - thousands of them
    except OSError:
        return 0
