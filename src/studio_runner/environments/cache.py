"""The environments that are kept: locked, published, used and evicted, by several runner processes at once.

On disk, below one directory:

    <key>/             one environment; counts as one only while it has a manifest
      env/             the environment itself, read-only
      manifest.json    written last, by rename
      compiled         written when all of it has bytecode and is flushed to disk: the bytes of that
    <key>.lock         held exclusively to build or remove <key>, shared while somebody uses it;
                       its modification time is when that was last begun
    trash/             what is being removed

The locks are flock's: the kernel gives them back when their holder dies, however it dies.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from studio_runner.environments.files import remove_tree, write_atomically
from studio_runner.environments.packages import Package

FORMAT = 1
"""Changes whenever environments of an earlier version must not be used any more."""

_FIRST_WAIT, _LONGEST_WAIT = 0.01, 0.2
_MANIFEST = "manifest.json"
_COMPILED = "compiled"
_GENERATIONS = 4


@dataclass(frozen=True)
class Manifest:
    """What a published environment is. `guards` are directories (relative to it) with the modification times they
    had then: a package installed or removed by an experiment that could (root can) shows there."""

    python: str
    executable: str
    packages: tuple[Package, ...]
    guards: tuple[tuple[str, int], ...]
    boot: str
    """Of which start of this machine; until the environment is on disk for certain, it is worth nothing after
    another one."""

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        stored = json.loads(text)
        if stored.pop("format") != FORMAT:
            raise ValueError("another format")
        packages = tuple(Package(**{**one, "requires": tuple(one["requires"])}) for one in stored.pop("packages"))
        guards = tuple((name, time) for name, time in stored.pop("guards"))
        return cls(packages=packages, guards=guards, **stored)


class Lock:
    """One open lock file; `close` gives the lock back."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self.path = path

    @classmethod
    def take(cls, path: Path, kind: int) -> "Lock | None":
        """A lock (`fcntl.LOCK_SH` or `LOCK_EX`) without waiting; None when somebody holds the other kind."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            # Whoever removes an environment removes the lock file too: ours may be the one that is gone.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):  # noqa: PTH116 (warm path)
                return cls(descriptor, path)
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(descriptor)
        return None

    def share(self) -> None:
        """From exclusive to shared."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def touch(self) -> None:
        os.utime(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Slot:
    """The place of one environment, under a lock."""

    def __init__(self, directory: Path, lock: Lock, manifest: Manifest | None) -> None:
        self.directory = directory
        self.prefix = directory / "env"
        self._lock = lock
        self._manifest = manifest

    @property
    def published(self) -> bool:
        return self._manifest is not None

    @property
    def manifest(self) -> Manifest:
        if self._manifest is None:
            raise RuntimeError(f"{self.directory} is not published")
        return self._manifest

    def publish(self, manifest: Manifest) -> None:
        """From here on the environment is one that others find and use."""
        write_atomically(self.directory / _MANIFEST, manifest.to_json())
        self._manifest = manifest

    def share(self) -> None:
        self._lock.share()
        self._lock.touch()

    @property
    def compiled(self) -> bool:
        return (self.directory / _COMPILED).exists()

    def set_compiled(self, size: int) -> None:
        write_atomically(self.directory / _COMPILED, str(size))

    def close(self) -> None:
        """Nobody here uses it any more."""
        self._lock.close()


class EnvironmentCache:
    """All slots below `root`, at most `budget` bytes (0: no limit) of those that are not in use."""

    def __init__(self, root: Path, budget: int) -> None:
        self._root = root
        self._budget = budget
        self._trash = root / "trash"
        self._manifests: dict[str, tuple[int, Manifest]] = {}
        root.mkdir(parents=True, exist_ok=True)

    def find(self, key: str) -> Slot | None:
        """The published environment, in use until its slot is closed; None when there is none yet."""
        for name in _generations(key):
            if not (self._root / name).exists():
                continue
            lock = Lock.take(self._lock_path(name), fcntl.LOCK_SH)
            if lock is None:
                continue
            if manifest := self._usable(name):
                lock.touch()
                return Slot(self._root / name, lock, manifest)
            lock.close()
        return None

    @asynccontextmanager
    async def build(self, key: str, waiting: Callable[[], None]) -> AsyncIterator[Slot]:
        """An empty place to build in, nobody else's until the context ends; `waiting` is called once when somebody
        else is at it. The slot that comes out is published already when another process was quicker."""
        slot = await self._place(key, waiting)
        try:
            if not slot.published:
                self._discard(slot.directory.name)
                slot.directory.mkdir()
            yield slot
        except BaseException:
            slot.close()
            raise

    async def _place(self, key: str, waiting: Callable[[], None]) -> Slot:
        pause = _FIRST_WAIT
        while True:
            slot = self.find(key) or self._free(key)
            if slot is not None:
                return slot
            if pause == _FIRST_WAIT:
                waiting()
            await asyncio.sleep(pause)  # flock has no event to wait for that a cancellation could interrupt
            pause = min(pause * 2, _LONGEST_WAIT)

    def _free(self, key: str) -> Slot | None:
        """The first generation that nobody builds, passing over those that are spoilt and still in use."""
        for name in _generations(key):
            lock = Lock.take(self._lock_path(name), fcntl.LOCK_EX)
            if lock is not None:
                return Slot(self._root / name, lock, self._usable(name))
            if not self._spoilt(name):
                return None
        return None

    def _spoilt(self, name: str) -> bool:
        """Published, and changed since: not being built, and not to be used."""
        return self._manifest(name) is not None and self._usable(name) is None

    def _usable(self, name: str) -> Manifest | None:
        manifest = self._manifest(name)
        if manifest is None or not _unchanged(self._root / name / "env", manifest):
            return None
        # Before it is flushed a loss of power may have left empty files behind.
        flushed = manifest.boot == boot_id() or (self._root / name / _COMPILED).exists()
        return manifest if flushed else None

    def evict(self) -> int | None:
        """Remove leftovers, then the least recently used environments until the rest fits the budget. What is in
        use stays, and so does everything when the budget is 0. Returns the bytes that are left of the budget, if
        there is one."""
        for name in [name for name in self._names() if self._manifest(name) is None]:
            self._remove(name)
        names = sorted(self._names(), key=self._last_used) if self._budget else []
        while names and self.usage() > self._budget:
            self._remove(names.pop(0))
        with contextlib.suppress(FileNotFoundError):
            for leftover in self._trash.iterdir():
                remove_tree(leftover)
        return max(self._budget - self.usage(), 0) if self._budget else None

    def usage(self) -> int:
        """Bytes of all published environments; files that several of them share count once."""
        shared: dict[str, int] = {}
        own = 0
        for name in self._names():
            manifest = self._manifest(name)
            for package in manifest.packages if manifest else ():
                shared[package.identity] = package.size
            with contextlib.suppress(OSError, ValueError):
                own += int((self._root / name / _COMPILED).read_text())
        return own + sum(shared.values())

    def _remove(self, name: str) -> bool:
        lock = Lock.take(self._lock_path(name), fcntl.LOCK_EX)
        if lock is None:
            return False
        try:
            self._discard(name)
            lock.path.unlink(missing_ok=True)
        finally:
            lock.close()
        return True

    def _discard(self, name: str) -> None:
        """Take the directory away under its exclusive lock: by rename, so that it is gone at once; `evict` does the
        slow part."""
        self._trash.mkdir(exist_ok=True)
        self._manifests.pop(name, None)
        with contextlib.suppress(FileNotFoundError):
            (self._root / name).rename(self._trash / uuid.uuid4().hex)

    def _manifest(self, name: str) -> Manifest | None:
        path = self._root / name / _MANIFEST
        try:
            written = path.stat().st_mtime_ns
            known = self._manifests.get(name)
            if known is None or known[0] != written:
                known = written, Manifest.from_json(path.read_text(encoding="utf-8"))
                self._manifests[name] = known
            return known[1]
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def _names(self) -> Iterator[str]:
        for entry in os.scandir(self._root):
            if entry.is_dir(follow_symlinks=False) and entry.name != "trash":
                yield entry.name

    def _last_used(self, name: str) -> float:
        try:
            return self._lock_path(name).stat().st_mtime
        except OSError:
            return 0.0

    def _lock_path(self, name: str) -> Path:
        return self._root / f"{name}.lock"


def _generations(key: str) -> Iterator[str]:
    """Names that an environment may have: a second one is only built when an experiment changed the first and
    another is still using it."""
    yield key
    yield from (f"{key}.{number}" for number in range(1, _GENERATIONS))


@cache
def boot_id() -> str:
    """Tells one start of this machine from another (Linux; elsewhere they all look alike)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def guards(prefix: Path, names: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """Modification times to compare with later."""
    return tuple((name, (prefix / name).stat().st_mtime_ns) for name in names)


def _unchanged(prefix: Path, manifest: Manifest) -> bool:
    try:
        return all((prefix / name).stat().st_mtime_ns == time for name, time in manifest.guards)
    except OSError:
        return False
