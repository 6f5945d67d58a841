"""Opening files in places where an experiment may put something else at any time."""

import errno
import os
import stat
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WITHOUT_HARM = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SOMETHING_ELSE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO})


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int | None:
    """A descriptor of the regular file at `path`; None when there is none, or something else in its place.

    Neither the file nor its directory is reached through a link, which could lead to any file of the runner's, and
    a pipe keeps nobody waiting. What is above the directory must be the runner's alone.
    """
    try:
        place = open_directory(path.parent)
        try:
            descriptor = os.open(path.name, flags | _WITHOUT_HARM, 0o644, dir_fd=place)
        finally:
            os.close(place)
    except OSError as error:
        if error.errno in _SOMETHING_ELSE:
            return None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def open_directory(path: Path) -> int:
    """A descriptor of a directory that is no link; OSError when it is not there."""
    return os.open(path, _DIRECTORY)
