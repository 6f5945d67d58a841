"""The output in a file, or its last lines."""

import os
from collections.abc import Callable
from pathlib import Path

from studio_runner.process.follow import open_regular
from studio_runner.storage.base import CHUNK

Write = Callable[[bytes], None]


def write_file(path: Path, write: Write, tail: int | None = None) -> None:
    """Write what is in a file now, or its last lines."""
    with os.fdopen(open_regular(path), "rb") as file:
        file.seek(0 if tail is None else tail_offset(path, tail))
        while piece := file.read(CHUNK):
            write(piece)


def tail_offset(path: Path, lines: int) -> int:
    """Where the last `lines` lines of a file begin."""
    with os.fdopen(open_regular(path), "rb") as file:
        position = end = file.seek(0, 2)
        if lines <= 0:
            return end
        while position:
            start = max(0, position - CHUNK)
            file.seek(start)
            block = file.read(position - start)
            stop = len(block)
            while (stop := block.rfind(b"\n", 0, stop)) >= 0:
                if start + stop == end - 1:  # ends the last line, begins none
                    continue
                lines -= 1
                if not lines:
                    return start + stop + 1
            position = start
    return 0
