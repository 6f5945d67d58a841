"""The output of an experiment as a response: what there is, its end, or its end and all that follows."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from weakref import WeakSet

from starlette.responses import StreamingResponse

from studio_runner.client.artifact_files import stored_output
from studio_runner.client.opening import Opener
from studio_runner.client.tail import View
from studio_runner.errors import NotFoundError, StudioRunnerError
from studio_runner.messages.masking import Masker
from studio_runner.process.follow import follow
from studio_runner.process.regular import open_regular
from studio_runner.process.shown import length_shown, shown
from studio_runner.reports.records import Record

OUTPUT = "output"
"""The label of the artifact, and the name of the file in it."""
TEXT = "text/plain; charset=utf-8"

MOST_STORED = 4
"""Stored outputs that lie unpacked on this machine's disk at a time."""
ATTEMPTS = 10
"""As many outputs of full length may be in one artifact: those of earlier attempts stay beside the last."""


class BusyError(StudioRunnerError):
    """Others are being answered."""


class StoredOutputs:
    """Outputs of experiments that do not run here. Each is unpacked for who asks, and goes when its file is closed.
    `longest`: bytes of one output, of which an artifact may hold ATTEMPTS; 0: however many."""

    def __init__(self, opener: Opener, longest: int) -> None:
        self._opener, self._limit = opener, ATTEMPTS * longest or None
        self._unpacking = 0
        self._open: WeakSet[BinaryIO] = WeakSet()

    async def open(self, record: Record) -> BinaryIO:
        """NotFoundError when there is none (yet), TooLargeError, BusyError."""
        if self._unpacking + len(self._open) >= MOST_STORED:
            raise BusyError(f"{MOST_STORED} stored outputs are being read already", hint="Ask again in a while.")
        self._unpacking += 1
        try:
            async with stored_output(record, self._opener, self._limit) as path:
                if path is None:
                    raise NotFoundError(f"Experiment {record.key} has no output yet")
                file = open_output(path.parent)
        finally:
            self._unpacking -= 1
        self._open.add(file)
        return file


def open_output(directory: Path) -> BinaryIO:
    """The output file in the artifact's `directory`; NotFoundError when there is none. Links are not followed: an
    experiment could make one that leads to any file that the runner may read."""
    try:
        descriptor = open_regular(directory / OUTPUT)
    except OSError as error:
        raise NotFoundError(f"There is no output in {directory}: {error.strerror}") from error
    if descriptor is None:
        raise NotFoundError(f"There is no output in {directory}, or it is not a regular file")
    return os.fdopen(descriptor, "rb")


def whole(file: BinaryIO, tail: int | None, view: View) -> StreamingResponse:
    """What is in the file now, or its last `tail` bytes; closes the file."""
    end = length_shown(file, view.until)
    start = 0 if tail is None else max(0, end - tail)
    headers = {"Content-Length": str(end - start), **_type()}
    return StreamingResponse(_pieces(file, shown(file, start, end, view.masker, view.hidden)), headers=headers)


def live(directory: Path, over: Callable[[], bool], tail: int | None, view: View) -> StreamingResponse:
    """The file and what is added to it until `over()`."""
    with open_output(directory) as file:
        start = 0 if tail is None else max(0, os.fstat(file.fileno()).st_size - tail)
    pieces = follow(directory / OUTPUT, over, start, view.hidden)
    return StreamingResponse(_veiled(pieces, view.masker), headers=_type())


def _type() -> dict[str, str]:
    return {"Content-Type": TEXT}


async def _pieces(file: BinaryIO, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    with file:
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece


async def _veiled(pieces: AsyncIterator[bytes], masker: Masker) -> AsyncIterator[bytes]:
    stream = masker.stream()
    async for piece in pieces:
        if passed := stream.feed(piece):
            yield passed
    if rest := stream.finish():
        yield rest
