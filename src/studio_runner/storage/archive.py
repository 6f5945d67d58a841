"""Archives as the runner uses them: unpack what is pushed in, pack a directory into a stream."""

import logging
import os
import stat
import time
from collections.abc import Callable, Generator, Iterator
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

from studio_runner.errors import ArtifactInvalidError
from studio_runner.storage.base import CHUNK
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.compression import Compression, Expander, compress
from studio_runner.storage.extract import ARTIFACT, Extraction, Rules
from studio_runner.storage.faults import disk_fault, member_fault
from studio_runner.storage.scan import Found, Keep, unreadable, walk
from studio_runner.storage.tar import (
    BLOCK,
    DIRECTORY,
    END,
    FILE,
    SYMLINK,
    Member,
    encode,
    looks_like_header,
    padding,
)
from studio_runner.storage.untar import TarReader

Note = Callable[[str], None]
"""Takes one sentence for the person whose artifact it is."""

Tap = Callable[[bytes], None]
"""Takes the pieces of a plain archive, or a file, beside whoever they are for."""

Announce = Callable[[Member], Member]
"""What an archive says of a member, made of what the file system says."""

_log = logging.getLogger(__name__)
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class GivenUpError(Exception):
    """Feeding an unpacker that was told to give up."""


class Unpacker:
    """Unpacks one archive, of any kind, into `directory`, which exists. Everything it opened is closed when its
    context ends. Safe to use from another thread than the one that made it, one at a time. `tap` is told of what
    was in it, decompressed."""

    def __init__(
        self, directory: Path, budget: DiskBudget, tap: Tap | None = None, rules: Rules = ARTIFACT
    ) -> None:
        self._directory = directory
        self._tap = tap
        self._head: bytes | None = b""
        self._given_up = False
        self._kind = Compression.NONE
        self._expander = Expander(self._kind)
        try:
            self._extraction = Extraction(directory, budget, rules)
        except OSError as error:
            raise disk_fault(error, str(directory)) from error
        self._reader = TarReader(self._extraction)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._extraction.release()

    def feed(self, chunk: bytes) -> None:
        """Take the archive's next bytes. ArtifactInvalidError, DiskExceededError, StorageUnavailableError."""
        if self._head is not None:
            chunk = self._head = self._head + chunk
            if len(chunk) < BLOCK:
                return
            self._begin(chunk)
        self._expand(chunk)

    def close(self) -> None:
        """The archive is over; ArtifactInvalidError when it is not whole."""
        if self._head == b"":
            raise ArtifactInvalidError("is empty, which no tar archive is")
        if self._head is not None:
            chunk = self._head
            self._begin(chunk)
            self._expand(chunk)
        self._expander.close()
        # What a compressor ended is whole; a plain archive is only when it says so.
        self._reader.close(marker=self._kind is Compression.NONE)

    def give_up(self) -> None:
        """Make a `feed` that is under way in another thread end soon, with GivenUpError."""
        self._given_up = True

    def _begin(self, head: bytes) -> None:
        self._head = None
        plain = looks_like_header(head[:BLOCK])  # first: a member may be called `BZh`
        self._kind = Compression.NONE if plain else Compression.of_content(head)
        if self._kind is Compression.NONE and not plain:
            raise ArtifactInvalidError(
                f"is no tar archive, plain or compressed: it starts with {head[:8]!r}",
                hint="pack it with tar, or send the artifact with unpack false",
            )
        self._expander = Expander(self._kind)

    def _expand(self, chunk: bytes) -> None:
        try:
            for piece in self._expander.feed(chunk):
                if self._given_up:
                    raise GivenUpError
                if self._tap is not None:
                    self._tap(piece)
                self._reader.feed(piece)
        except OSError as error:
            raise member_fault(error, os.fsdecode(self._extraction.member), str(self._directory)) from error


def pack(  # noqa: PLR0913
    directory: Path,
    compression: Compression = Compression.NONE,
    *,
    mtime: int | None = None,
    keep: Keep | None = None,
    note: Note = _log.warning,
    announce: Announce | None = None,
    rules: Rules = ARTIFACT,
) -> Generator[bytes, None, None]:
    """A tar archive of what is below `directory`, the same bytes for the same content.

    With `mtime` (Unix seconds) it depends on names and contents alone: all files have that time, and the modes 644
    or 755. `keep` decides what goes in, `note` is told of what cannot, `announce` may change what is said of a
    member, `rules` say what links may be. Files may change meanwhile: the archive is valid, and what vanished
    is not in it.
    """
    packer = _Packer(directory, mtime, note, announce, rules)
    return compress(packer.stream(walk(directory, keep)), compression)


def pack_file(name: str, content: bytes, compression: Compression = Compression.NONE) -> bytes:
    """An archive with one file in it, as clients expect of an artifact that is a document."""
    member = Member(os.fsencode(name), FILE, 0o644, len(content), time.time_ns())
    blocks = (encode(member), content, bytes(padding(len(content))), END)
    return b"".join(compress(blocks, compression))


class _Packer:
    def __init__(
        self, directory: Path, mtime: int | None, note: Note, announce: Announce | None, rules: Rules
    ) -> None:
        self._directory = directory
        self._rules = rules
        self._announce = announce
        self._mtime = None if mtime is None else mtime * 1_000_000_000
        self._note = note

    def stream(self, entries: Iterator[Found]) -> Iterator[bytes]:
        """Blocks of the archive in pieces of about CHUNK bytes."""
        held, size = [], 0
        for piece in chain(chain.from_iterable(map(self._entry, entries)), (END,)):
            held.append(piece)
            size += len(piece)
            if size >= CHUNK:
                yield held[0] if len(held) == 1 else b"".join(held)
                held, size = [], 0
        if held:
            yield b"".join(held)

    def _entry(self, found: Found) -> Iterator[bytes]:
        mode = found.status.st_mode
        if stat.S_ISREG(mode):
            return self._file(found)
        if stat.S_ISDIR(mode):
            return iter((encode(self._member(found, found.path + b"/", DIRECTORY)),))
        if stat.S_ISLNK(mode):
            return self._link(found)
        self._note(f"{os.fsdecode(found.path)} is left out: it is a socket, a pipe or a device")
        return iter(())

    def _member(self, found: Found, name: bytes, kind: bytes, size: int = 0, target: bytes = b"") -> Member:
        mode, mtime = found.status.st_mode & 0o777, found.status.st_mtime_ns
        if self._mtime is not None:
            mode, mtime = 0o755 if mode & 0o100 else 0o644, self._mtime
        member = Member(name, kind, mode, size, mtime, target)
        return member if self._announce is None else self._announce(member)

    def _link(self, found: Found) -> Iterator[bytes]:
        try:
            target = os.fsencode(os.readlink(found.name, dir_fd=found.parent))
        except OSError:
            return  # vanished, or something else by now
        root = os.fsencode(self._directory.absolute()) + b"/"
        depth = found.path.count(b"/")
        if target.startswith(root):
            target = b"../" * depth + target[len(root) :]
        inside = self._rules.link(target, depth)
        if inside is None:
            self._note(
                f"{os.fsdecode(found.path)} is left out: it links to {os.fsdecode(target)}, outside the artifact"
            )
            return
        yield encode(self._member(found, found.path, SYMLINK, target=inside))

    def _file(self, found: Found) -> Iterator[bytes]:
        try:
            descriptor = os.open(found.name, _OPEN, dir_fd=found.parent)
        except PermissionError as error:
            raise unreadable(found.path, error) from error
        except OSError:
            return  # vanished, or a link by now
        try:
            size = found.status.st_size
            yield encode(self._member(found, found.path, FILE, size))
            yield from self._content(descriptor, found, size)
            if pad := padding(size):
                yield bytes(pad)
        finally:
            os.close(descriptor)

    def _content(self, descriptor: int, found: Found, left: int) -> Iterator[bytes]:
        """Exactly as many bytes as were announced, whatever happens to the file."""
        while left:
            try:
                data = os.read(descriptor, min(left, CHUNK))
            except OSError as error:
                raise disk_fault(error, os.fsdecode(found.path)) from error
            if not data:
                yield from _zeros(left)
                return
            left -= len(data)
            yield data


def _zeros(count: int) -> Iterator[bytes]:
    while count:
        piece = bytes(min(count, CHUNK))
        count -= len(piece)
        yield piece
