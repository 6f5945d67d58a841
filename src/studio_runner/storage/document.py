"""A small document as others store it: bare, compressed, or as one file of an archive."""

import posixpath

from studio_runner.errors import ArtifactInvalidError
from studio_runner.storage.compression import Compression, Expander
from studio_runner.storage.tar import BLOCK, FILE, Member, looks_like_header
from studio_runner.storage.untar import TarReader


def document_in(body: bytes, name: str, most: int) -> bytes:
    """The file `name` of the archive that `body` is, whatever its directory, or `body` itself where it is no
    archive; empty when there is nothing to be read. No more than `most` bytes are decompressed: a few kilobytes can
    be made to stand for as many gigabytes."""
    try:
        expanded = _expanded(body, most)
    except ArtifactInvalidError:
        return b""
    if not looks_like_header(expanded[:BLOCK]):
        return expanded
    found = _OneFile(name.encode())
    try:
        TarReader(found).feed(expanded)
    except ArtifactInvalidError:  # what stands before it counts
        return found.content
    return found.content


def _expanded(body: bytes, most: int) -> bytes:
    held = bytearray()
    for piece in Expander(Compression.of_content(body)).feed(body):
        held += piece
        if len(held) >= most:
            break
    return bytes(held[:most])


class _OneFile:
    """A sink that keeps the first file of a name, if all of it is there."""

    def __init__(self, name: bytes) -> None:
        self.content = b""
        self._name = name
        self._held: bytearray | None = None

    def start(self, member: Member) -> None:
        wanted = member.kind == FILE and posixpath.basename(member.name) == self._name and not self.content
        self._held = bytearray() if wanted else None

    def write(self, piece: memoryview) -> None:
        if self._held is not None:
            self._held += piece

    def finish(self) -> None:
        if self._held is not None:
            self.content, self._held = bytes(self._held), None
