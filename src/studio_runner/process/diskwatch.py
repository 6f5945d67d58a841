"""Watching what experiments have on disk.

A directory is looked through when it may have grown too large. That shows in the room that is left on its file
system, which one call tells for all directories on it; so a scan is rare while nobody writes much.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from studio_runner.process.limits import Tree, disk_usage
from studio_runner.process.watcher import Watcher

_TICK, _CALM = 0.25, 1.0
"""Seconds between two looks at the room on the file systems, and the longest while nothing much is written."""
_NEAR, _FAR = 5.0, 30.0
"""Longest time between two scans of a directory: over half of its limit, and below. Somebody else may have removed
as much as the experiment wrote."""
_DUTY, _URGENT_DUTY = 0.0004, 0.05
"""Share of a core that scanning one directory may take: ordinarily, and while its limit may be passed."""


@dataclass(eq=False)
class _Watched:
    """A directory, the tree that writes there, and what was found last."""

    directory: Path
    tree: Tree
    limit: int
    exceeded: "asyncio.Future[int]"
    used: int = 0
    free: int = -1
    """Bytes left on the file system when `used` was taken; -1: never yet."""
    seen: int = -1
    """The same at the last look."""
    scanned: float = 0.0
    cost: float = 0.0
    scan: "asyncio.Task[None] | None" = None

    def is_written(self, free: int) -> bool:
        """Whether, by the look of its file system since the last time, it comes nearer to its limit."""
        before, self.seen = self.seen, free
        return before < 0 or before - free > (self.limit - self.used) / 50

    def wants_scan(self, now: float, free: int) -> bool:
        if self.free < 0:
            return True
        since = now - self.scanned
        if self.free - free >= self.limit - self.used:
            return since >= self.cost / _URGENT_DUTY
        longest = _NEAR if self.used > self.limit / 2 else _FAR
        return since >= max(longest, self.cost / _DUTY)


class DiskWatch(Watcher):
    """Looks after all directories of a runner."""

    def __init__(self) -> None:
        super().__init__()
        self._watched: set[_Watched] = set()
        self._wanted = asyncio.Event()

    async def excess(self, directory: Path, tree: Tree, limit: int) -> int:
        """Wait until there are more than `limit` bytes in the directory, and in removed files that the tree has
        open; that many there are."""
        self._require_alive()
        watched = _Watched(directory, tree, limit, asyncio.get_running_loop().create_future())
        self._watched.add(watched)
        self._wanted.set()
        try:
            return await watched.exceeded
        finally:
            self._watched.discard(watched)
            if watched.scan:
                watched.scan.cancel()

    def _awaited(self) -> list["asyncio.Future[int]"]:
        return [one.exceeded for one in self._watched]

    async def _run(self) -> None:
        pause = _TICK
        while True:
            if not self._watched:
                self._wanted.clear()
                await self._wanted.wait()
            await asyncio.sleep(pause)
            free = await asyncio.to_thread(_free, {one.directory.parent for one in self._watched})
            now, pause = time.monotonic(), min(pause * 1.5, _CALM)
            for one in self._watched:
                left = free.get(one.directory.parent, 0)
                if one.is_written(left):
                    pause = _TICK
                if one.scan is None and one.wants_scan(now, left):
                    one.scan = asyncio.create_task(self._scan(one, left), name="scan a directory")

    async def _scan(self, watched: _Watched, free: int) -> None:
        pids = watched.tree.pids()
        watched.used, watched.cost = await asyncio.to_thread(
            _timed, lambda: disk_usage(watched.directory) + removed_files(watched.directory, pids)
        )
        watched.free, watched.scanned, watched.scan = free, time.monotonic(), None
        if watched.used > watched.limit and not watched.exceeded.done():
            watched.exceeded.set_result(watched.used)


def removed_files(directory: Path, pids: Iterable[int]) -> int:
    """Bytes in files of the same file system that have no name any more and are held open by these processes."""
    found: dict[int, int] = {}
    try:
        device = directory.stat().st_dev
    except OSError:
        return 0
    for pid in pids:
        for status in _open_files(pid):
            if status.st_dev == device and status.st_nlink == 0:
                found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def _open_files(pid: int) -> list[os.stat_result]:
    found = []
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - names only
            try:
                found.append(os.stat(f"/proc/{pid}/fd/{name}"))  # noqa: PTH116
            except OSError:  # closed meanwhile
                continue
    except OSError:  # ended, or another user's
        return found
    return found


def _free(places: Iterable[Path]) -> dict[Path, int]:
    """Bytes left on the file systems of these directories, as far as they can be asked."""
    found = {}
    for place in places:
        try:
            status = os.statvfs(place)
        except OSError:
            continue
        found[place] = status.f_bfree * status.f_frsize
    return found


def _timed(work: Callable[[], int]) -> tuple[int, float]:
    """What it comes to, and the processor time that took."""
    started = time.thread_time()
    return work(), time.thread_time() - started
