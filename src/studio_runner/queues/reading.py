"""Reading a message that its writer may not have finished."""

import errno
import os
import stat
import time
from pathlib import Path
from typing import NamedTuple

from studio_runner.messages.jsontext import TooManyValuesError, loads
from studio_runner.queues.backlog import Entry
from studio_runner.queues.complaints import Complaints
from studio_runner.queues.layout import WHOLE

LARGEST = 64 << 20
"""Bytes of a message. Requests are a few kilobytes; what is larger is not read into memory."""
LOCK_EXPIRES = 60.0
"""Seconds after which a lock file that nobody touched is taken for one that its owner left behind."""
SETTLES = 1.0
"""Seconds that a message which is not complete JSON must stay as it is before it is handed on as it is."""


class Version(NamedTuple):
    """Tells one content of a file name from another."""

    inode: int
    modified: int
    size: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Version":
        return cls(status.st_ino, status.st_mtime_ns, status.st_size)


class Content(NamedTuple):
    """What was read; `body` is None when it is larger than a message can be."""

    body: bytes | None
    version: Version


def is_gone(error: OSError) -> bool:
    """Whether the file is no longer there; NFS has a second word for that."""
    return error.errno in {errno.ENOENT, errno.ESTALE}


def read_message(path: Path) -> Content:
    """The bytes of a regular file. OSError, among others when it is gone, a link or a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(None, "is not a regular file", str(path))
        if status.st_size > LARGEST:
            return Content(None, Version.of(status))
        with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
            return Content(file.read(status.st_size), Version.of(status))  # it may grow
    finally:  # `fdopen` takes no directory, and leaves it open
        os.close(descriptor)


def is_complete(body: bytes) -> bool:
    """Whether the bytes are one whole JSON text, or too much for anybody to read; the proper beginning of an object
    that somebody can read never is."""
    try:
        loads(body)
    except TooManyValuesError:
        return True
    except (ValueError, RecursionError):
        return False
    return True


class Ripening:
    """Messages that looked unfinished, and since when they have stayed as they are."""

    def __init__(self) -> None:
        self._unripe: dict[str, tuple[Version, float]] = {}

    def wait(self, entry: Entry, content: Content) -> float:
        """Seconds until the message should be looked at again, 0 when it can be handed on."""
        settled = entry.name.endswith(WHOLE) or _is_settled(entry, content.version)
        if settled or content.body is None or is_complete(content.body):
            self.forget(entry.name)
            return 0.0
        now = time.monotonic()
        version, since = self._unripe.get(entry.name, (None, now))
        if version != content.version:
            since = now
        self._unripe[entry.name] = (content.version, since)
        if now - since < SETTLES:
            return since + SETTLES - now
        self.forget(entry.name)
        return 0.0

    def forget(self, name: str) -> None:
        """The message is gone."""
        self._unripe.pop(name, None)


def _is_settled(entry: Entry, version: Version) -> bool:
    """Nobody has written to it since it was first seen, a while ago."""
    return version.modified == entry.modified and time.monotonic() - entry.seen > SETTLES


class SoftLock:
    """The file that existing clients create while they write a message, and remove when it is whole."""

    def __init__(self, path: Path, complaints: Complaints) -> None:
        self.path = path
        self._complaints = complaints
        self._free_at = float("-inf")
        self._seen: tuple[Version | None, float] = (None, 0.0)

    def covers(self, seen: float) -> bool:
        """Whether a message first seen at `seen` may still be in the making: not if the lock was free at any time
        since then."""
        if seen <= self._free_at:
            return False
        now = time.monotonic()
        if self._is_held(now):
            return True
        self._free_at = now
        return False

    def _is_held(self, now: float) -> bool:
        try:
            version = Version.of(self.path.lstat())
        except OSError:
            return False  # not there; or whoever reads the messages says what is wrong
        if version != self._seen[0]:
            self._seen = (version, now)
        if now - self._seen[1] < LOCK_EXPIRES:
            return True
        self._complaints.once(self.path, "lock left behind by its owner, ignored", "remove the file")
        return False
