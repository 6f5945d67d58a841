"""What the operating system says about files, in the project's own errors."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from studio_runner.errors import (
    ArtifactInvalidError,
    ObjectNotFoundError,
    StorageUnavailableError,
    StudioRunnerError,
    UnauthorisedError,
)

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM}
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
_UNNAMEABLE = {errno.ENAMETOOLONG, errno.EILSEQ}


def disk_fault(error: OSError, path: str) -> StudioRunnerError:
    """This machine's disk refused to take or give `path`."""
    if error.errno in _FULL:
        return StorageUnavailableError(f"the disk that holds {path} is full", hint="free space on that disk")
    return StorageUnavailableError(f"{path}: {error.strerror or error}", hint="check the disk that holds it")


def member_fault(error: OSError, member: str, directory: str) -> StudioRunnerError:
    """An archive's member could not be written below `directory`."""
    if error.errno in _UNNAMEABLE:
        return ArtifactInvalidError(f"member {member}: this file system cannot have a file of that name")
    return disk_fault(error, directory)


def store_fault(error: OSError, path: str) -> StudioRunnerError:
    """The object at `path` could not be written, removed or listed."""
    if error.errno in _FORBIDDEN:
        return UnauthorisedError(
            f"{path}: {error.strerror}", hint=f"user {os.getuid()} of this machine needs the right to it"
        )
    return disk_fault(error, path)


@contextmanager
def write_faults(path: str) -> Iterator[None]:
    """Turn an OSError of the body, which writes at `path`, into an error of the storage seam."""
    try:
        yield
    except OSError as error:
        raise store_fault(error, path) from error


@contextmanager
def read_faults(path: str) -> Iterator[None]:
    """Turn an OSError of the body, which reads `path`, into an error of the storage seam."""
    try:
        yield
    except OSError as error:
        if error.errno in _ABSENT:
            raise ObjectNotFoundError(f"no object at {path}") from error
        raise store_fault(error, path) from error
