"""Reads a tar archive that is pushed in pieces of any size."""

from typing import Protocol

from studio_runner.errors import ArtifactInvalidError
from studio_runner.storage.tar import (
    BLOCK,
    DIRECTORY,
    FILE,
    LABEL,
    LONG_NAME,
    LONG_TARGET,
    PAX,
    PAX_GLOBAL,
    ZEROS,
    Member,
    amend,
    decode,
    padding,
    pax_records,
)

_EXTENSIONS = {PAX, PAX_GLOBAL, LONG_NAME, LONG_TARGET}
_EXTENSION_LIMIT = 1 << 20
"""Bytes of one extension header; more is an attack on memory, no name."""
_PASSED_OVER, _PER_MEMBER = 64 << 20, 4096
"""Bytes of an archive that become no file: a thousand compressed ones can stand for a terabyte of them."""


class Sink(Protocol):
    """Takes an archive's members in order: `start`, `write` any number of times, `finish`."""

    def start(self, member: Member) -> None: ...
    def write(self, piece: memoryview) -> None: ...
    def finish(self) -> None: ...


class TarReader:
    """Feeds a sink from the bytes of an archive. Everything after the end marker is ignored, as tar does."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._held = b""
        self._left = 0
        self._pad = 0
        self._offset = 0
        self._members = self._passed_over = 0
        self._open = False
        self._ended = False
        self._extension: tuple[bytes, bytearray] | None = None
        self._records: dict[bytes, bytes] = {}
        self._defaults: dict[bytes, bytes] = {}

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the archive."""
        if self._held:
            data, self._held = self._held + data, b""
        view, at, end = memoryview(data), 0, len(data)
        while at < end and not self._ended:
            if self._left:
                piece = view[at : at + self._left]
                at += len(piece)
                self._take(piece)
            elif self._pad:
                step = min(self._pad, end - at)
                at += step
                self._pad -= step
            elif end - at < BLOCK:
                self._held = data[at:]
                at = end
            else:
                self._header(data[at : at + BLOCK], self._offset + at)
                at += BLOCK
        self._offset += at - len(self._held)
        if self._ended:
            self._pass_over(end - at)

    def close(self, *, marker: bool) -> None:
        """The archive is over; ArtifactInvalidError when a part is missing. `marker`: its end must be marked."""
        if self._left or self._held or self._extension or self._records or (marker and not self._ended):
            raise ArtifactInvalidError(f"truncated: the archive ends at byte {self._offset + len(self._held):,}")

    def _header(self, block: bytes, offset: int) -> None:
        if block == ZEROS:
            self._ended = True
            return
        member = decode(block, offset)
        if member.kind in _EXTENSIONS:
            self._begin_extension(member, offset)
            return
        if self._records or self._defaults:
            member = amend(member, self._defaults | self._records)
            self._records = {}
        if member.kind == FILE and not member.size and member.name.endswith(b"/"):
            member = member._replace(kind=DIRECTORY)  # as tar wrote them before there were kinds
        self._left, self._pad = member.size, padding(member.size)
        self._open = member.kind != LABEL
        if not self._open:
            self._pass_over(member.size)
        else:
            self._members += 1
            self._sink.start(member)
            if not member.size:
                self._sink.finish()

    def _begin_extension(self, member: Member, offset: int) -> None:
        if not 0 < member.size <= _EXTENSION_LIMIT:
            raise ArtifactInvalidError(f"an extension header of {member.size:,} bytes at byte {offset:,}")
        self._pass_over(member.size)
        self._left, self._pad = member.size, padding(member.size)
        self._extension = (member.kind, bytearray())

    def _pass_over(self, size: int) -> None:
        self._passed_over += size
        if self._passed_over > _PASSED_OVER + _PER_MEMBER * self._members:
            raise ArtifactInvalidError(
                f"holds more than {_PASSED_OVER >> 20} MiB that are no part of a file: labels, extension headers, "
                "or what follows its end"
            )

    def _take(self, piece: memoryview) -> None:
        self._left -= len(piece)
        if self._extension is not None:
            self._extension[1].extend(piece)
            if not self._left:
                self._end_extension(*self._extension)
        elif self._open:
            self._sink.write(piece)
            if not self._left:
                self._sink.finish()

    def _end_extension(self, kind: bytes, payload: bytearray) -> None:
        self._extension = None
        data = bytes(payload)
        if kind == PAX:
            self._records.update(pax_records(data))
        elif kind == PAX_GLOBAL:
            self._defaults.update(pax_records(data))
        else:
            key = b"path" if kind == LONG_NAME else b"linkpath"
            self._records[key] = data.partition(b"\0")[0]
