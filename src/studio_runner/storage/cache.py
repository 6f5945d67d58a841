"""Artifacts that are kept between experiments, by several runner processes at once.

On disk, below one directory that only its owner can read:

    <name>         one artifact (`storage.kept`); its modification time is when it was last used
    <name>.lock    held exclusively by whoever fetches it; its modification time tells that this goes on

The locks are flock's: the kernel gives them back when their holder dies, however it dies.
"""

import asyncio
import fcntl
import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

from studio_runner.messages.artifact import Artifact
from studio_runner.storage.base import ObjectInfo
from studio_runner.storage.draft import HIDDEN, Draft, sweep
from studio_runner.storage.kept import Copy, Kept
from studio_runner.storage.threads import in_thread

_log = logging.getLogger(__name__)

STALLED = 30.0
"""Seconds without progress after which whoever fetches an artifact is not waited for any longer."""

_LOCK = ".lock"
_FIRST_WAIT, _LONGEST_WAIT = 0.01, 0.25
_TOLD = 1000
"""Artifacts whose hits and misses are counted one by one."""
OTHERS = "others"


def kept_name(artifact: Artifact) -> str:
    """What the artifact is called in the cache: by where it is stored, and whether it is to be unpacked."""
    place = artifact.location
    form = "tree" if artifact.unpack else "file"
    parts = (form, place.scheme, place.endpoint, place.bucket, place.key)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:40]


class Claim:
    """The right to fetch one artifact into the cache. `waited`: somebody else had it before, so it may be there."""

    def __init__(self, cache: "ArtifactCache", name: str, lock: int | None, *, waited: bool) -> None:
        self.waited = waited
        self._cache = cache
        self._name = name
        self._lock = lock

    def copy(self, info: ObjectInfo) -> Copy:
        """In a thread: what accompanies the transfer."""
        return self._cache.copy(self._name, info if self._lock is not None else None)

    def publish(self, copy: Copy, info: ObjectInfo, sha256: str) -> None:
        """In a thread: the content is whole and sound."""
        if copy.publish(info.etag, info.size, sha256):
            self._cache.tidy()

    def watched(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The same pieces; the others are told that there is progress."""
        for piece in pieces:
            if self._lock is not None:
                os.utime(self._lock)
            yield piece


class ArtifactCache:
    """Immutable artifacts of stores across the network, at most `budget` bytes of them, for all experiments.

    `hits` and `misses` count uses by the artifact's name here.
    """

    def __init__(self, directory: Path, budget: int) -> None:
        self._directory = directory
        self._budget = budget
        self._waiting: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.hits: Counter[str] = Counter()
        self.misses: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        """OSError when the directory cannot be had."""
        await in_thread(self._begin)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Everything that is kept is left for the next runner."""

    def count(self, counter: Counter[str], name: str) -> None:
        counter[name if name in counter or len(counter) < _TOLD else OTHERS] += 1

    def find(self, name: str) -> Kept | None:
        """What is kept, in a thread; it is the caller's to close."""
        try:
            return Kept.open(str(self._directory / name))
        except OSError as error:
            _log.warning("the artifact cache cannot be read: %s", error)
            return None

    @asynccontextmanager
    async def claim(self, name: str) -> AsyncIterator[Claim]:
        """Wait until nobody else fetches `name`, here or in another process."""
        lock = self._waiting.setdefault(name, asyncio.Lock())
        waited = lock.locked()
        async with lock:
            descriptor, others = await self._exclude(name)
            try:
                yield Claim(self, name, descriptor, waited=waited or others)
            finally:
                self._release(name, descriptor)

    def copy(self, name: str, info: ObjectInfo | None) -> Copy:
        """In a thread: takes the content of an object; nothing of one that is not to be kept."""
        target = self._directory / name
        if info is None or not info.etag or info.etag.startswith("W/") or info.size > self._budget:
            return Copy(None, target, 0)
        try:
            self._make_room(info.size)
            return Copy(Draft(str(self._directory)), target, self._budget)
        except OSError as error:
            _log.warning("the artifact cache cannot be written: %s", error)
            return Copy(None, target, 0)

    def tidy(self) -> None:
        """In a thread: keep to the budget again."""
        with suppress(OSError):
            self._make_room(0)

    def _begin(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep(str(self._directory))
        for path in self._directory.glob(f"*{_LOCK}"):
            if (descriptor := _take(path)) is not None:
                path.unlink(missing_ok=True)
                os.close(descriptor)
        self._make_room(0)

    async def _exclude(self, name: str) -> tuple[int | None, bool]:
        """A lock on `name` (None: it cannot be had, or its holder stands still), and whether it was waited for."""
        path = self._directory / f"{name}{_LOCK}"
        pause, waited = _FIRST_WAIT, False
        while True:
            try:
                descriptor = _take(path)
                if descriptor is not None:
                    return descriptor, waited
                if time.time() - path.stat().st_mtime > STALLED:
                    return None, False
            except FileNotFoundError:
                pass  # given back this moment
            except OSError as error:
                _log.warning("the artifact cache cannot be locked: %s", error)
                return None, False
            waited = True
            await asyncio.sleep(pause)  # flock has no event to wait for that a cancellation could interrupt
            pause = min(pause * 2, _LONGEST_WAIT)

    def _release(self, name: str, descriptor: int | None) -> None:
        if descriptor is None:
            return
        with suppress(OSError):
            (self._directory / f"{name}{_LOCK}").unlink(missing_ok=True)
        os.close(descriptor)

    def _make_room(self, needed: int) -> None:
        """Remove what was not used for longest until `needed` bytes fit; never what is in use."""
        entries = sorted(self._entries(), key=lambda entry: entry[1].st_mtime_ns)
        excess = sum(status.st_size for _, status in entries) + needed - self._budget
        for path, status in entries:
            if excess <= 0:
                return
            if _evicted(path):
                excess -= status.st_size

    def _entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        with os.scandir(self._directory) as listing:
            for entry in listing:
                if entry.name.endswith(_LOCK) or entry.name.startswith(HIDDEN):
                    continue
                with suppress(FileNotFoundError):
                    yield Path(entry.path), entry.stat(follow_symlinks=False)


def _take(path: Path) -> int | None:
    """The lock, without waiting; None when somebody has it. OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever gives a lock back removes its file: ours may be the one that is gone.
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            os.utime(descriptor)
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _evicted(path: Path) -> bool:
    """Remove the file unless somebody uses it."""
    with suppress(OSError), _opened(path) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        return True
    return False


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
