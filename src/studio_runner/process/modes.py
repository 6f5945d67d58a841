"""Who may read and write what this process makes: nobody else, unless the place is shared.

A place is shared when it is somebody else's (a runner that is root brings results into a person's store) or when
others may write into it. What comes into such a place is as open as the place; all else has the modes that PRIVATE
leaves. Paths are strings: this is on the path of every artifact.
"""

# ruff: noqa: PTH101, PTH102, PTH112, PTH116, PTH120
import contextlib
import os
import stat

PRIVATE = 0o077
"""The umask of every command."""


def share_file(descriptor: int, directory: str) -> None:
    """Open a new file of a shared directory to those who may be there."""
    if mode := _shared(directory):
        os.fchmod(descriptor, mode & 0o666)


def make_directories(path: str) -> None:
    """As `os.makedirs` of what may be there already; closed to others whatever the umask, but in shared places."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path) or "."
    make_directories(parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
        if mode := _shared(parent):
            os.chmod(path, mode)


def _shared(directory: str) -> int:
    """The mode of a shared directory, 0 for one that is not. Where nobody may remove another's files (/tmp),
    everybody is by himself."""
    status = os.stat(directory)
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_ISVTX or (status.st_uid == os.geteuid() and not mode & 0o022):
        return 0
    return mode
