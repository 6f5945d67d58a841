# On the path of every artifact, where strings are several times faster than Path objects.
# ruff: noqa: PTH105, PTH108, PTH112
"""A file that appears under its name only when it is whole."""

import os
import time
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from studio_runner.process.modes import make_directories, share_file

HIDDEN = ".studio-runner-"
"""Names that start so are the store's own and never objects."""

STALE = 3600.0
"""Seconds without a write after which a temporary file belongs to nobody."""

_HOLE = 1 << 16
"""Bytes of zeros that are worth a hole."""

_WRITE = os.O_WRONLY | os.O_CLOEXEC
_UNNAMED = getattr(os, "O_TMPFILE", 0)


class Draft:
    """A temporary file in the directory of its target.

    Where the file system can, it has no name until it is published, so a process that is killed leaves nothing.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._name = f"{directory}/{HIDDEN}{token_hex(8)}.part"
        self._named = False
        self._end = 0
        self._descriptor = self._open()
        share_file(self._descriptor, directory)

    def write(self, data: bytes) -> None:
        """Append `data`. Long stretches of zeros become holes: a script that has next to no disk can make files of
        terabytes that are nothing else."""
        if len(data) >= _HOLE and not (data[0] or data[-1]) and data == bytes(len(data)):
            self._end = os.lseek(self._descriptor, len(data), os.SEEK_CUR)
            return
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def sync(self) -> os.stat_result:
        """Bring the content to the disk; returns what the file then is."""
        if self._end > os.fstat(self._descriptor).st_size:  # the file ends in a hole
            os.ftruncate(self._descriptor, self._end)
        os.fsync(self._descriptor)
        return os.fstat(self._descriptor)

    def publish(self, target: str) -> None:
        """Give the file its name, in place of what had it.

        The directory is not synced: journals keep the order of names, so whatever is renamed or removed after this
        (a delivery's file among them) does not outlast it in a power failure.
        """
        if not self._named:
            os.link(
                f"/proc/self/fd/{self._descriptor}", self._name, src_dir_fd=self._descriptor, follow_symlinks=True
            )
            self._named = True
        os.replace(self._name, target)
        self._named = False

    def discard(self) -> None:
        """Close the file and, unless it was published, remove it."""
        os.close(self._descriptor)
        if self._named:
            with suppress(FileNotFoundError):
                os.unlink(self._name)

    def _open(self) -> int:
        if _UNNAMED and os.path.isdir("/proc/self/fd"):
            try:
                return os.open(self._directory, _UNNAMED | _WRITE, 0o666)
            except FileNotFoundError:
                raise
            except OSError:
                pass  # not every file system can; and if it is something else, it will show
        sweep(self._directory)
        self._named = True
        return os.open(self._name, _WRITE | os.O_CREAT | os.O_EXCL, 0o666)


def draft(directory: str) -> Draft:
    """A draft for a file in `directory`, which is made if it is missing."""
    try:
        return Draft(directory)
    except FileNotFoundError:
        make_directories(directory)
        return Draft(directory)


def sweep(directory: str) -> None:
    """Remove the temporary files in `directory` that a killed process left."""
    oldest = time.time() - STALE
    for path in Path(directory).glob(f"{HIDDEN}*.part"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                path.unlink()
