"""The waiting messages of one queue as one runner knows them, oldest first.

With ten thousand of them the directory is read once, not for every message: names are remembered, new ones come one
by one from the watch, and the directory is read again only after it changed.
"""

import bisect
import heapq
import os
import stat
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from studio_runner.queues.layout import is_message_name

AT_A_TIME = 64
"""Messages refused before that are offered again when something was given back, or at a regular look."""


class Entry(NamedTuple):
    """One waiting message; they sort oldest first. `seen` is when it was first known, by the monotonic clock."""

    modified: int
    name: str
    seen: float


class Listing(NamedTuple):
    """One reading of the directory. `odd` names what is no message and no directory either."""

    present: set[str]
    fresh: list[Entry]
    odd: list[str]


class Backlog:
    """Messages to be offered, and those that were refused."""

    def __init__(self, directory: Path, on_odd: Callable[[Path], None]) -> None:
        self._directory = directory
        self._on_odd = on_odd
        self._known: set[str] = set()
        self._waiting: list[Entry] = []
        self._refused: list[Entry] = []
        self._first: Entry | None = None
        self._turn = 0
        self._stamp: tuple[int, int] | None = None
        self._calm = False

    @property
    def has_refused(self) -> bool:
        return bool(self._refused)

    def pop(self) -> Entry | None:
        """The oldest message not offered yet."""
        return heapq.heappop(self._waiting) if self._waiting else None

    def push(self, entry: Entry) -> None:
        """Offer it again."""
        heapq.heappush(self._waiting, entry)

    def refuse(self, entry: Entry) -> None:
        """Leave it until something changes."""
        bisect.insort(self._refused, entry)

    def refuse_for_now(self, entry: Entry) -> None:
        """Leave it, and offer it whenever any is offered: room is held free for it."""
        self.refuse(entry)
        self._first = entry

    def forget(self, entry: Entry) -> None:
        """It is no longer in the queue."""
        self._known.discard(entry.name)

    def offer_oldest(self) -> None:
        """Something was given back: the messages that waited longest may fit now."""
        self._offer(0)

    def offer_others(self) -> None:
        """Some of those further back, in turn, so that none waits for ever behind others that never fit."""
        if self._turn >= len(self._refused):
            self._turn = 0
        self._offer(self._turn)
        self._turn += AT_A_TIME

    def _offer(self, start: int) -> None:
        self._offer_first()
        for entry in self._refused[start : start + AT_A_TIME]:
            heapq.heappush(self._waiting, entry)
        del self._refused[start : start + AT_A_TIME]

    def _offer_first(self) -> None:
        if self._first is None:
            return
        place = bisect.bisect_left(self._refused, self._first)
        if self._refused[place : place + 1] == [self._first]:
            heapq.heappush(self._waiting, self._refused.pop(place))
        self._first = None

    def add(self, name: str) -> None:
        """A message appeared under this name."""
        if name in self._known or not is_message_name(name):
            return
        try:
            status = (self._directory / name).lstat()
        except OSError:
            return  # gone again, or the next reading says what is wrong
        if stat.S_ISREG(status.st_mode):
            self._known.add(name)
            heapq.heappush(self._waiting, Entry(status.st_mtime_ns, name, time.monotonic()))
        elif not stat.S_ISDIR(status.st_mode):
            self._on_odd(self._directory / name)

    def is_stale(self) -> bool:
        """Whether the directory may hold other names than at the last reading.

        Its time of modification is coarse: one reading that follows a whole calm period must have been made.
        OSError when the directory cannot be opened.
        """
        stamp = _stamp(self._directory)
        calm = stamp == self._stamp
        if calm and self._calm:
            return False
        self._stamp, self._calm = stamp, calm
        return True

    def mistrust(self) -> None:
        """The directory could not be read: read it again even if it does not change."""
        self._stamp, self._calm = None, False

    def vanish(self) -> None:
        """The directory is not there."""
        self._known.clear()
        self._waiting.clear()
        self._refused.clear()
        self.mistrust()

    def listing(self) -> Listing:
        """Read the directory. This takes a while when it is long: call it in a thread, then `merge` the result."""
        return _read(self._directory, self._known)

    def merge(self, listing: Listing) -> None:
        self._known &= listing.present
        self._refused = [entry for entry in self._refused if entry.name in self._known]
        for entry in listing.fresh:
            if entry.name not in self._known:
                self._known.add(entry.name)
                heapq.heappush(self._waiting, entry)
        for name in listing.odd:
            self._on_odd(self._directory / name)


def _stamp(directory: Path) -> tuple[int, int]:
    """Identity and time of modification, of the open directory: an NFS client asks its server then."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return status.st_ino, status.st_mtime_ns


def _read(directory: Path, known: Collection[str]) -> Listing:
    present: set[str] = set()
    unknown: list[tuple[int, str]] = []
    odd: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if not is_message_name(entry.name) or entry.is_dir(follow_symlinks=False):
                continue
            if not entry.is_file(follow_symlinks=False):
                odd.append(entry.name)
                continue
            present.add(entry.name)
            if entry.name not in known:
                unknown.append((_modified(entry), entry.name))
    seen = time.monotonic()
    return Listing(present, [Entry(modified, name, seen) for modified, name in unknown], odd)


def _modified(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat(follow_symlinks=False).st_mtime_ns
    except FileNotFoundError:
        return 0  # taken by somebody between the two looks
