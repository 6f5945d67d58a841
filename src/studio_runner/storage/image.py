"""A container image on its way from a store: an archive of a root file system, or a file as it is.

Clients pack the file of an image into an archive, or do not, and what a message says of it (`unpack`) is not always
what was stored: the first bytes decide.
"""

import hashlib
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from studio_runner.errors import ArtifactInvalidError
from studio_runner.storage.archive import GivenUpError, Unpacker
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.compression import Compression
from studio_runner.storage.extract import ROOT_FILE_SYSTEM
from studio_runner.storage.receive import Placement, Sink
from studio_runner.storage.tar import BLOCK, looks_like_header

FILE = "image"
"""What an image that comes as a file is called."""


class ImageReceiver:
    """Unpacks or places a stream in `directory`, which exists, and computes its SHA-256."""

    def __init__(self, directory: Path, budget: DiskBudget) -> None:
        self._directory = directory
        self._budget = budget
        self._digest = hashlib.sha256()
        self._head = b""
        self._sink: Sink | None = None
        self._stack = ExitStack()
        self._given_up = False

    @property
    def sha256(self) -> str:
        """Of what was fed so far."""
        return self._digest.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def feed(self, chunk: bytes) -> None:
        """Errors are those of `Unpacker.feed`."""
        if self._given_up:
            raise GivenUpError
        self._digest.update(chunk)
        if self._sink is None:
            self._head += chunk
            if len(self._head) < BLOCK:
                return
            chunk, self._head = self._head, b""
            self._sink = self._chosen(chunk)
        self._sink.feed(chunk)

    def close(self) -> None:
        """ArtifactInvalidError when it is not whole."""
        if self._sink is None:
            raise ArtifactInvalidError(f"is no image: it has {len(self._head)} bytes")
        self._sink.close()

    def give_up(self) -> None:
        self._given_up = True
        if self._sink is not None:
            self._sink.give_up()

    def _chosen(self, head: bytes) -> Sink:
        # The file systems of old images begin with zeros, as the end of an archive does.
        is_archive = looks_like_header(head[:BLOCK]) and any(head[:BLOCK])
        if is_archive or Compression.of_content(head) is not Compression.NONE:
            unpacker = Unpacker(self._directory, self._budget, rules=ROOT_FILE_SYSTEM)
            return self._stack.enter_context(unpacker)
        return self._stack.enter_context(Placement(self._directory / FILE, self._budget))
