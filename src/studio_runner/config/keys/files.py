"""Key files as they are on the disk now: who may have written them, which one a queue has, whether they are whole.

They are looked at with every message, which costs less than a tenth of a millisecond: so a key that appears,
changes or vanishes counts at once, however it was done (by hand, or by Kubernetes, which swaps a link to a whole
directory).
"""

import logging
import os
import re
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from studio_runner.errors import KeyFileError, KeyLockedError, KeyUnsettledError
from studio_runner.messages.keys import OpeningKey, read_opening_key

log = logging.getLogger(__name__)

LARGEST = 1 << 16
"""Bytes of a key file."""
SETTLES = 2.0
"""Seconds that a file which holds no key must stay as it is before it counts as broken rather than half written."""

_NOT_KEYS = ("info",)
_UNLIKELY = re.compile(r"[*?\[\]]|\.(pub|pem)$")
_CHANGED_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_READ_BY_OTHERS = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP

NAMED = "it must have the name that queues begin with, without a pattern or an ending"

T = TypeVar("T")


@dataclass(frozen=True)
class KeyDirectory(Generic[T]):
    """A directory with a key for every beginning of queue names; the longest that fits is a queue's. `parse` makes
    of a file's content what is wanted, or raises KeyFileError. Names with a dot in front, and `info`, are none."""

    path: Path
    parse: Callable[[bytes], T]

    def of(self, queue: str) -> T | None:
        """The key of a queue; None where it has none.

        KeyFileError when it has one that cannot be used, KeyUnsettledError when it may just be in the making.
        """
        try:
            _check_writers(self.path, self.path.stat())
            names = [path.name for path in self.path.iterdir() if _may_be_key_of(queue, path.name)]
        except OSError as error:
            raise KeyUnsettledError(
                f"The directory of keys {self.path} cannot be read: {error.strerror}"
            ) from error
        return self._read(self.path / max(names, key=len)) if names else None

    def names(self) -> list[str]:
        """The beginnings of queue names that have a key; KeyFileError when the directory cannot be used."""
        try:
            _check_writers(self.path, self.path.stat())
            return sorted(path.name for path in self.path.iterdir() if _may_be_key_of(path.name, path.name))
        except OSError as error:
            raise KeyFileError(f"The directory of keys {self.path} cannot be read: {error.strerror}") from error

    def check(self) -> None:
        """KeyFileError when the directory cannot be used; a key that cannot, or is of no queue, is told of."""
        for name in self.names():
            if is_mistaken(name):
                log.warning("The key file %s hardly belongs to any queue: %s", self.path / name, NAMED)
            try:
                self.of(name)
            except (KeyFileError, KeyUnsettledError) as error:
                log.warning("%s", error)

    def _read(self, path: Path) -> T:
        try:
            content, status = key_content(path)
        except FileNotFoundError as error:  # a moment ago it was there
            raise self._vanished(path) from error
        except OSError as error:
            raise KeyFileError(f"The key file {path} cannot be read: {error.strerror}") from error
        try:
            _check_writers(path, status)
            return self.parse(content)
        except KeyFileError as error:
            raise _told(path, error, status.st_ctime) from error

    def _vanished(self, path: Path) -> KeyFileError | KeyUnsettledError:
        """A file that is not there though its name is, or was."""
        try:
            changed = max(path.lstat().st_ctime, self.path.stat().st_ctime)
        except OSError:
            return KeyUnsettledError(f"The key file {path} was just removed")
        return _told(path, KeyFileError("it is a link to nothing"), changed)


def is_mistaken(name: str) -> bool:
    """Whether a key file is hardly meant to have this name, as no queue's name begins so."""
    return _UNLIKELY.search(name) is not None


class OpeningKeyFile:
    """The runner's own key in `<encrypt-dir>`, which is parsed again when its file changes: that takes a while."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "encryption" / "ssh-privatekey"
        self._passphrase = directory / "passphrase" / "ssh-passphrase"
        self._known: tuple[object, OpeningKey] | None = None
        self._said: object = None

    def key(self) -> OpeningKey:
        """The key as it is now. One that was changed for the worse is told of, and the one before it goes on;
        KeyFileError when there is none yet."""
        seen = _version(self.path), _version(self._passphrase)
        if self._known and self._known[0] == seen:
            return self._known[1]
        try:
            self._known = seen, self._read()
        except KeyFileError as error:
            if self._known is None:
                raise
            if self._said != seen:
                self._said = seen
                log.warning("%s; the key that was there before is used on", error)
        return self._known[1]

    def _read(self) -> OpeningKey:
        content = private_content(self.path)
        passphrase = self._kept_passphrase()
        try:
            return read_opening_key(content, passphrase or None)
        except KeyFileError as error:
            locked = isinstance(error, KeyLockedError)
            hint = f"The runner reads it from {self._passphrase} (mode 0600)." if locked else HINT
            raise KeyFileError(f"The key file {self.path} cannot be used: {error}", hint=hint) from error

    def _kept_passphrase(self) -> bytes | None:
        """None where there is none; KeyFileError when it cannot be read."""
        try:
            self._passphrase.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise KeyFileError(f"The key file {self._passphrase} cannot be read: {error.strerror}") from error
        return passphrase_in(self._passphrase)


HINT = "docs/how-to/encrypt-and-sign.md says how keys are made."


def private_content(path: Path) -> bytes:
    """What is in a file with a private key that only its owner may read; KeyFileError when others may, when it is
    not there, and for a public half, whose mode says nothing."""
    content, status = _readable(path)
    if _is_open(status) and b"PRIVATE KEY" not in content:
        raise KeyFileError(f"The key file {path} holds no private key", hint="Is it the public half of the pair?")
    _check_closed(path, status, "key")
    return content


def public_content(path: Path) -> bytes:
    """What is in a file with a public key; KeyFileError when others may change it, or when it is not there."""
    content, status = _readable(path)
    _check_writers(path, status)
    return content


def passphrase_in(path: Path) -> bytes:
    """What a file with a passphrase holds, without the end of its line; KeyFileError as for a private key."""
    content, status = _readable(path, "passphrase")
    _check_closed(path, status, "passphrase")
    return content.rstrip(b"\r\n")


def _readable(path: Path, kind: str = "key") -> tuple[bytes, os.stat_result]:
    try:
        return key_content(path)
    except OSError as error:
        raise KeyFileError(f"The {kind} file {path} cannot be read: {error.strerror}", hint=HINT) from error


def _is_open(status: os.stat_result) -> bool:
    return bool(status.st_mode & _READ_BY_OTHERS)


def _check_closed(path: Path, status: os.stat_result, kind: str) -> None:
    if _is_open(status):
        mode = stat.S_IMODE(status.st_mode)
        raise KeyFileError(
            f"The {kind} file {path} can be used by others (mode {mode:04o})",
            hint=f"chmod 600 {path}, and make a new {kind}.",
        )
    _check_owner(path, status)


def key_content(path: Path) -> tuple[bytes, os.stat_result]:
    """Whoever may read or change it. OSError when it cannot be read; KeyFileError when it is no regular file (links
    are followed) or too long."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError(f"The key file {path} is no regular file")
        content = os.read(descriptor, LARGEST + 1)
    finally:
        os.close(descriptor)
    if len(content) > LARGEST:
        raise KeyFileError(f"The key file {path} has more than {LARGEST} bytes")
    return content, status


def _told(path: Path, error: KeyFileError, changed: float) -> KeyFileError | KeyUnsettledError:
    """The error of a file that changed at that Unix time."""
    sentence = f"The key file {path} cannot be used: {error}"
    if time.time() - changed < SETTLES:
        return KeyUnsettledError(sentence)
    return KeyFileError(sentence, hint=error.hint or HINT)


def _check_writers(path: Path, status: os.stat_result) -> None:
    """Nobody else may change it; in a directory with the sticky bit, such as Kubernetes mounts, they cannot."""
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_mode & _CHANGED_BY_OTHERS and not sticky:
        mode = stat.S_IMODE(status.st_mode)
        raise KeyFileError(f"{path} can be changed by others (mode {mode:04o})", hint=f"chmod go-w {path}")
    _check_owner(path, status)


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise KeyFileError(
            f"{path} belongs to another user (uid {status.st_uid})", hint=f"chown it to root: {path}"
        )


def _may_be_key_of(queue: str, name: str) -> bool:
    return queue.startswith(name) and not name.startswith(".") and name not in _NOT_KEYS


def _version(path: Path) -> object:
    """Tells one content of a file from another."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_mode
