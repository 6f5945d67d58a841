"""The output of an experiment as a response: what there is, its end, or its end and all that follows."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO

from starlette.responses import StreamingResponse

from studio_runner.errors import NotFoundError
from studio_runner.process.follow import follow, open_regular

OUTPUT = "output"
"""The label of the artifact, and the name of the file in it."""
TEXT = "text/plain; charset=utf-8"
_PIECE = 1 << 18


def open_output(directory: Path) -> BinaryIO:
    """The output file in the artifact's `directory`; NotFoundError when there is none. Links are not followed: an
    experiment could make one that leads to any file that the runner may read."""
    try:
        descriptor = open_regular(directory / OUTPUT)
    except OSError as error:
        raise NotFoundError(f"There is no output in {directory}: {error.strerror}") from error
    return os.fdopen(descriptor, "rb")


def start_of(file: BinaryIO, tail: int | None) -> int:
    """Where the last `tail` bytes begin (None: all)."""
    return 0 if tail is None else max(0, os.fstat(file.fileno()).st_size - tail)


def whole(file: BinaryIO, tail: int | None) -> StreamingResponse:
    """What is in the file now, or its last `tail` bytes; closes the file."""
    start = start_of(file, tail)
    length = os.fstat(file.fileno()).st_size - start
    return StreamingResponse(_pieces(file, start, length), headers={"Content-Length": str(length), **_type()})


def live(directory: Path, over: Callable[[], bool], tail: int | None) -> StreamingResponse:
    """The file and what is added to it until `over()`."""
    with open_output(directory) as file:
        start = start_of(file, tail)
    return StreamingResponse(follow(directory / OUTPUT, over, start), headers=_type())


def _type() -> dict[str, str]:
    return {"Content-Type": TEXT}


async def _pieces(file: BinaryIO, start: int, length: int) -> AsyncIterator[bytes]:
    with file:
        file.seek(start)
        while length > 0 and (piece := await asyncio.to_thread(file.read, min(_PIECE, length))):
            length -= len(piece)
            yield piece
