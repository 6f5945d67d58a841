"""The output in a file, or its last lines."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from studio_runner.errors import NotFoundError
from studio_runner.messages.masking import Masker
from studio_runner.process.hidden import Hidden, nothing_hidden
from studio_runner.process.regular import open_regular
from studio_runner.process.shown import Write, length_shown, shown
from studio_runner.reports.records import Record
from studio_runner.storage.base import CHUNK


@dataclass(frozen=True)
class View:
    """What of an output is not for show: `hidden` places, secrets that `masker` knows, all after the first `until`
    bytes (None: all is for show)."""

    masker: Masker
    hidden: Hidden = nothing_hidden
    until: int | None = None

    def of_stored(self, record: Record) -> "View":
        """That of the output that is stored of an experiment."""
        cover = record.cover
        return replace(self, hidden=lambda: cover.places, until=None if record.over else cover.until)


def write_file(path: Path, write: Write, view: View, tail: int | None = None) -> None:
    """Write what is in a file now, or its last lines."""
    with _opened(path) as file:
        start = 0 if tail is None else tail_offset(path, tail)
        for piece in shown(file, start, length_shown(file, view.until), view.masker, view.hidden):
            write(piece)


def may_show(path: Path, view: View) -> bool:
    """Whether all that is in the file is for show."""
    with _opened(path) as file:
        return length_shown(file, view.until) == os.fstat(file.fileno()).st_size


def tail_offset(path: Path, lines: int) -> int:
    """Where the last `lines` lines of a file begin."""
    with _opened(path) as file:
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


def _opened(path: Path) -> BinaryIO:
    """An experiment that runs may have put a link there, which must not be followed."""
    descriptor = open_regular(path)
    if descriptor is None:
        raise NotFoundError(f"There is no output at {path}, or it is not a regular file")
    return os.fdopen(descriptor, "rb")
