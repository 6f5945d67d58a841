"""What becomes of an artifact's bytes as they arrive: unpacked, or placed as one file, and checked."""

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from studio_runner.errors import ArtifactInvalidError
from studio_runner.storage.archive import GivenUpError, Tap
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.faults import disk_fault

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


class Sink(Protocol):
    """Takes a stream: `feed` each piece, `close` at its end, `give_up` from any thread, all within its context."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def feed(self, chunk: bytes) -> None: ...
    def close(self) -> None: ...
    def give_up(self) -> None: ...


class Placement:
    """Places a stream as the file `path`; one that fails leaves no file. `tap` is told of every piece."""

    def __init__(self, path: Path, budget: DiskBudget, tap: Tap | None = None) -> None:
        self._path = path
        self._budget = budget
        self._tap = tap
        self._given_up = False
        try:
            self._descriptor = os.open(path, _CREATE, 0o644)
        except OSError as error:
            raise disk_fault(error, str(path)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
        if error is not None:
            self._path.unlink(missing_ok=True)

    def feed(self, chunk: bytes) -> None:
        if self._given_up:
            raise GivenUpError
        self._budget.charge(len(chunk))
        if self._tap is not None:
            self._tap(chunk)
        view = memoryview(chunk)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise disk_fault(error, str(self._path)) from error

    def close(self) -> None:
        """A file is whole whenever its stream is."""

    def give_up(self) -> None:
        self._given_up = True


class Digest:
    """Passes a stream on to `sink` and computes its SHA-256, which must be `expected` where that is given."""

    def __init__(self, sink: Sink, expected: str | None) -> None:
        self._sink = sink
        self._expected = expected
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of what was fed so far."""
        return self._digest.hexdigest()

    def __enter__(self) -> Self:
        self._sink.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sink.__exit__(kind, error, trace)

    def feed(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        self._sink.feed(chunk)

    def close(self) -> None:
        """ArtifactInvalidError when the stream was not what was promised."""
        verify(self.sha256, self._expected)
        self._sink.close()

    def give_up(self) -> None:
        self._sink.give_up()


def verify(sha256: str, expected: str | None) -> None:
    """ArtifactInvalidError when the sender promised something else."""
    if expected and sha256 != expected:
        raise ArtifactInvalidError(f"is not what was sent: its SHA-256 is {sha256}, the message says {expected}")
