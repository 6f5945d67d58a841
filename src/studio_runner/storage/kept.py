"""One artifact in the cache: a file with the content to unpack or place, and what is known of it at the end.

The content is not synced to the disk, which would take longer than fetching it did. Instead each file bears the
start of the machine that it was written under; after another start its checksum is looked at before it is used.
"""

import fcntl
import json
import logging
import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from studio_runner.storage.base import CHUNK
from studio_runner.storage.draft import Draft
from studio_runner.storage.faults import read_faults

_log = logging.getLogger(__name__)

_FORMAT = 1
_TAIL = 1024
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True)
class Facts:
    """`etag`, `size` and `sha256` are of the object as it is stored, `checksum` (CRC-32) is of the content here."""

    etag: str
    size: int
    sha256: str
    checksum: int
    boot: str

    def encode(self) -> bytes:
        """The last bytes of the file; ValueError when there is too much to say."""
        text = json.dumps({"format": _FORMAT, **asdict(self)}).encode()
        if len(text) > _TAIL:
            raise ValueError("an etag that long is not kept")
        return text.ljust(_TAIL)

    @classmethod
    def decode(cls, tail: bytes) -> "Facts | None":
        """None: nothing that this version understands."""
        try:
            known = json.loads(tail)
            return cls(**known) if known.pop("format") == _FORMAT else None
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


class Kept:
    """An artifact that is in the cache, open: it stays whole and is not evicted until the context ends."""

    def __init__(self, descriptor: int, facts: Facts, path: str) -> None:
        self.facts = facts
        self._descriptor = descriptor
        self._path = path
        self._left = os.fstat(descriptor).st_size - _TAIL

    @classmethod
    def open(cls, path: str) -> "Kept | None":
        """None when there is nothing of use. OSError."""
        try:
            descriptor = os.open(path, _READ)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # only an evictor has it otherwise
            facts = _facts(descriptor)
            if facts is not None and facts.boot != boot_id():
                facts = _confirmed(descriptor, facts, path)
            if facts is not None:
                os.utime(descriptor)
                return cls(descriptor, facts, path)
        except BlockingIOError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __iter__(self) -> Iterator[bytes]:
        """The content, once."""
        while self._left > 0:
            with read_faults(self._path):
                piece = os.read(self._descriptor, min(self._left, CHUNK))
            if not piece:
                return  # cut short by somebody else: whoever reads an archive sees it
            self._left -= len(piece)
            yield piece


class Copy:
    """Content on its way into the cache, beside being used. What cannot be kept is not (`draft` None: nothing is):
    nothing here fails the transfer that it accompanies."""

    def __init__(self, draft: Draft | None, target: Path, limit: int) -> None:
        self._draft = draft
        self._target = target
        self._left = limit
        self._checksum = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    def write(self, piece: bytes) -> None:
        if self._draft is None:
            return
        self._left -= len(piece)
        if self._left < 0:
            self._abandon("it is larger than the cache may be")
            return
        self._checksum = zlib.crc32(piece, self._checksum)
        try:
            self._draft.write(piece)
        except OSError as error:
            self._abandon(error.strerror or str(error))

    def publish(self, etag: str, size: int, sha256: str) -> bool:
        """From here on others find it; False when it is not kept."""
        if self._draft is None:
            return False
        try:
            self._draft.write(Facts(etag, size, sha256, self._checksum, boot_id()).encode())
            self._draft.publish(str(self._target))
        except (OSError, ValueError) as error:
            self._abandon(str(error))
            return False
        return True

    def _abandon(self, trouble: str) -> None:
        _log.warning("%s is not kept in the artifact cache: %s", self._target.name, trouble)
        self._discard()

    def _discard(self) -> None:
        if self._draft is not None:
            self._draft.discard()
            self._draft = None


def _facts(descriptor: int) -> Facts | None:
    size = os.fstat(descriptor).st_size
    return Facts.decode(os.pread(descriptor, _TAIL, size - _TAIL)) if size >= _TAIL else None


def _confirmed(descriptor: int, facts: Facts, path: str) -> Facts | None:
    """After a start of the machine: the facts when the content is what was written, noted for the next time."""
    left = end = os.fstat(descriptor).st_size - _TAIL
    checksum = 0
    while left > 0:
        piece = os.pread(descriptor, min(left, CHUNK), end - left)
        if not piece:
            return None
        left -= len(piece)
        checksum = zlib.crc32(piece, checksum)
    if checksum != facts.checksum:
        return None
    confirmed = replace(facts, boot=boot_id())
    writing = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if os.path.samestat(os.fstat(writing), os.fstat(descriptor)):
            os.pwrite(writing, confirmed.encode(), end)
    finally:
        os.close(writing)
    return confirmed


@cache
def boot_id() -> str:
    """Names this start of the machine; empty where nothing does, and then content counts as written under it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
