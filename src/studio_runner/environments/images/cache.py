"""The images that are kept: locked, published, used and evicted, by several runner processes at once.

On disk, below one directory that only its owner can read:

    <digest>/          one image, read-only: image.sif or root/, and manifest.json; published by one rename
    <digest>.lock      held shared while somebody uses <digest>, exclusively to publish or remove it; its
                       modification time is when that was last begun
    sources/<key>      which image a source gave, when, and when it was last looked at again
    sources/<key>.lock held exclusively by whoever gets the image of that source
    work/<id>/         an image on its way; a leftover as soon as nobody holds work/<id>.lock
    trash/             what is being removed

The locks are flock's: the kernel gives them back when their holder dies, however it dies.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from studio_runner.environments.cache import Lock, boot_id
from studio_runner.environments.files import remove_tree, write_atomically
from studio_runner.environments.images.base import SIF, Image, ImageKind
from studio_runner.environments.images.tree import measure
from studio_runner.environments.uninterrupted import uninterrupted

FORMAT = 1
"""Changes whenever images of an earlier version must not be used any more."""

_MANIFEST = "manifest.json"
_SOURCES, _WORK, _TRASH = "sources", "work", "trash"
_FIRST_WAIT, _LONGEST_WAIT = 0.01, 0.25
_TRIES = 1000


@dataclass(frozen=True)
class Manifest:
    """What a published image is. `files` and `size` (bytes) are counted, `checksum` is a file's SHA-256: they tell
    after the machine was started again whether all of it had reached the disk."""

    kind: ImageKind
    files: int
    size: int
    checksum: str
    boot: str

    @classmethod
    def of(cls, made: Path, kind: ImageKind) -> "Manifest":
        """Of an image that was just made; it is protected on the way. OSError."""
        return cls(kind, *measure(made / place(kind)), boot_id())

    def write(self, directory: Path) -> None:
        write_atomically(directory / _MANIFEST, json.dumps({"format": FORMAT, **asdict(self)}))

    @classmethod
    def read(cls, directory: Path) -> "Manifest | None":
        """None: nothing that this version understands."""
        try:
            stored = json.loads((directory / _MANIFEST).read_bytes())
            return cls(**stored) if stored.pop("format") == FORMAT else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None


@dataclass(frozen=True)
class Record:
    """What a source gave. `version` is the registry's word for it, "" where there is none; `fetched` and `looked`
    are Unix times."""

    digest: str
    version: str
    fetched: float
    looked: float

    @classmethod
    def read(cls, path: Path) -> "Record | None":
        try:
            return cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None


class Slot:
    """One image in use, until it is closed."""

    def __init__(self, directory: Path, manifest: Manifest, lock: Lock) -> None:
        self._directory = directory
        self._manifest = manifest
        self._lock = lock

    @property
    def digest(self) -> str:
        return self._directory.name

    def image(self, name: str) -> Image:
        kind = self._manifest.kind
        return Image(self._directory / place(kind), kind, self.digest, name)

    def close(self) -> None:
        self._lock.close()

    def __del__(self) -> None:
        """Whoever was to have it was cancelled."""
        self.close()


class ImageCache:
    """All images below `root`, at most `budget` bytes (0: no limit) of those that are not in use."""

    def __init__(self, root: Path, budget: int) -> None:
        self._root = root
        self.budget = budget

    def begin(self) -> None:
        """Make the directories and clear up after runners that died. OSError."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (_SOURCES, _WORK, _TRASH):
            (self._root / name).mkdir(mode=0o700, exist_ok=True)
        self.sweep()

    def record(self, key: str) -> Record | None:
        """What is known of a source."""
        return Record.read(self._root / _SOURCES / key)

    def note(self, key: str, record: Record) -> None:
        """From here on the source means this image."""
        write_atomically(self._root / _SOURCES / key, json.dumps(asdict(record)))

    def find(self, digest: str) -> Slot | None:
        """The image, in use until its slot is closed; None when it is not there whole."""
        directory = self._root / digest
        if not directory.exists():
            return None
        lock = Lock.take(self._lock_path(digest), fcntl.LOCK_SH)
        if lock is None:
            return None
        try:
            if manifest := _confirmed(directory):
                lock.touch()
                return Slot(directory, manifest, lock)
        except BaseException:
            lock.close()
            raise
        lock.close()
        return None

    @asynccontextmanager
    async def claim(self, name: str, waiting: Callable[[], None]) -> AsyncIterator[None]:
        """Wait until nobody else gets the images of this name, here or in another process; `waiting` is called once
        when somebody does."""
        path = self._root / _SOURCES / f"{name}.lock"
        pause = _FIRST_WAIT
        while (lock := Lock.take(path, fcntl.LOCK_EX)) is None:
            if pause == _FIRST_WAIT:
                waiting()
            await asyncio.sleep(pause)  # flock has no event to wait for that a cancellation could interrupt
            pause = min(pause * 2, _LONGEST_WAIT)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            lock.close()

    @asynccontextmanager
    async def workplace(self) -> AsyncIterator[Path]:
        """A directory to make an image in; nothing of it is left when the context ends."""
        name = uuid.uuid4().hex
        lock = Lock.take(self._root / _WORK / f"{name}.lock", fcntl.LOCK_EX)
        if lock is None:
            raise RuntimeError("a new lock is somebody's")
        directory = self._root / _WORK / name
        try:
            directory.mkdir(mode=0o700)
            yield directory
        finally:
            await uninterrupted(asyncio.to_thread(_end_work, directory, lock))

    def publish(self, digest: str, made: Path, manifest: Manifest) -> None:
        """Move what `made` holds (image.sif or root/) to its place, unless somebody was quicker. OSError."""
        manifest.write(made)
        for _ in range(_TRIES):
            if slot := self.find(digest):
                slot.close()
                return
            if lock := Lock.take(self._lock_path(digest), fcntl.LOCK_EX):
                self._discard(self._root / digest)
                made.rename(self._root / digest)
                lock.close()
                return
            time.sleep(_FIRST_WAIT)  # somebody publishes or removes it this moment
        raise OSError(f"the image {digest} is in use by a runner of another release")

    def sweep(self) -> None:
        """Remove what runners left that died at work."""
        for entry in self._entries(_WORK):
            name = entry.name.removesuffix(".lock")
            lock = Lock.take(self._root / _WORK / f"{name}.lock", fcntl.LOCK_EX)
            if lock is not None:
                _end_work(self._root / _WORK / name, lock)
        for entry in self._entries(_SOURCES):
            if entry.suffix == ".lock" and (lock := Lock.take(entry, fcntl.LOCK_EX)):
                entry.unlink(missing_ok=True)
                lock.close()
        for entry in self._entries(_TRASH):
            remove_tree(entry)

    def evict(self) -> bool:
        """Remove the least recently used images until the rest fits the budget. What is in use stays; True when
        that is too much."""
        names = sorted(self._digests(), key=self._last_used) if self.budget else []
        while names and self.usage() > self.budget:
            self._remove(names.pop(0))
        for entry in self._entries(_SOURCES):
            record = Record.read(entry)
            if record is not None and not (self._root / record.digest).exists():
                entry.unlink(missing_ok=True)
        self.sweep()
        return bool(self.budget) and self.usage() > self.budget

    def usage(self) -> int:
        """Bytes of all published images."""
        manifests = (Manifest.read(self._root / name) for name in self._digests())
        return sum(manifest.size for manifest in manifests if manifest)

    def _remove(self, digest: str) -> None:
        lock = Lock.take(self._lock_path(digest), fcntl.LOCK_EX)
        if lock is None:
            return
        try:
            self._discard(self._root / digest)
            lock.path.unlink(missing_ok=True)
        finally:
            lock.close()

    def _discard(self, directory: Path) -> None:
        """Take it away under its exclusive lock: by rename, so that it is gone at once; `sweep` does the rest."""
        with contextlib.suppress(FileNotFoundError):
            directory.rename(self._root / _TRASH / uuid.uuid4().hex)

    def _digests(self) -> Iterator[str]:
        others = (_SOURCES, _WORK, _TRASH)
        return (entry.name for entry in self._entries("") if entry.is_dir() and entry.name not in others)

    def _entries(self, folder: str) -> list[Path]:
        try:
            return sorted((self._root / folder).iterdir())
        except FileNotFoundError:
            return []

    def _last_used(self, digest: str) -> float:
        try:
            return self._lock_path(digest).stat().st_mtime
        except OSError:
            return 0.0

    def _lock_path(self, digest: str) -> Path:
        return self._root / f"{digest}.lock"


def place(kind: ImageKind) -> str:
    """Where in its directory an image is."""
    return "image.sif" if kind == SIF else "root"


def key_of(identity: str) -> str:
    """The name under which a source is known here."""
    return hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:40]


def _end_work(directory: Path, lock: Lock) -> None:
    remove_tree(directory)
    lock.path.unlink(missing_ok=True)
    lock.close()


def _confirmed(directory: Path) -> Manifest | None:
    """The manifest of an image that is whole: after a start of the machine it is looked at once."""
    manifest = Manifest.read(directory)
    if manifest is None or manifest.boot == boot_id():
        return manifest
    content = directory / place(manifest.kind)
    if not content.exists() or measure(content) != (manifest.files, manifest.size, manifest.checksum):
        return None
    manifest = replace(manifest, boot=boot_id())
    with contextlib.suppress(OSError):
        manifest.write(directory)
    return manifest
