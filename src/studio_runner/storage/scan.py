"""Walks an artifact's directory without ever leaving it, while a script may be changing it."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from studio_runner.errors import ArtifactInvalidError

Keep = Callable[[str, bool], bool]
"""Whether a path (relative, `/` between names) belongs in; the second argument says that it is a directory."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Found(NamedTuple):
    """One entry: `path` relative to the walked directory, `name` its last part, to be opened below `parent`."""

    path: bytes
    name: str
    parent: int
    status: os.stat_result


def walk(directory: Path, keep: Keep | None = None) -> Iterator[Found]:
    """Everything below `directory`, parents before children, always in the same order; `parent` is open until the
    next entry is asked for. What vanishes meanwhile is left out; ArtifactInvalidError for what cannot be read."""
    pending = [b""]
    while pending:
        path = pending.pop()
        parent = open_directory(directory, path)
        if parent is None:
            continue
        try:
            below = []
            for found in _entries(parent, path):
                is_directory = stat.S_ISDIR(found.status.st_mode)
                if keep is not None and not keep(os.fsdecode(found.path), is_directory):
                    continue
                if is_directory:
                    below.append(found.path)
                yield found
            pending += reversed(below)
        finally:
            os.close(parent)


def open_directory(root: Path, path: bytes = b"") -> int | None:
    """A descriptor of the directory `path` below `root`, no link followed on the way; None when it has vanished."""
    try:
        descriptor = os.open(root, _DIRECTORY)
        for name in path.split(b"/") if path else ():
            above = descriptor
            try:
                descriptor = os.open(name, _DIRECTORY, dir_fd=above)
            finally:
                os.close(above)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise unreadable(path or os.fsencode(root), error) from error
    return descriptor


def _entries(parent: int, path: bytes) -> Iterator[Found]:
    prefix = path + b"/" if path else b""
    with os.scandir(parent) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        yield Found(prefix + os.fsencode(entry.name), entry.name, parent, status)


def unreadable(path: bytes, error: OSError) -> ArtifactInvalidError:
    """The error for an entry that this user may not read."""
    return ArtifactInvalidError(
        f"cannot read {os.fsdecode(path)}: {error.strerror}", hint="the runner's user needs the right to read it"
    )


class Fingerprint(NamedTuple):
    """What a directory looked like: equal when nothing changed. `newest` is the latest modification in ns, `size`
    the bytes of all files."""

    digest: bytes
    entries: int
    newest: int
    size: int


def fingerprint(directory: Path) -> Fingerprint:
    """Taken from names, kinds, sizes, times, modes and inodes; contents are not read."""
    digest, entries, newest, size = hashlib.blake2b(digest_size=16), 0, 0, 0
    for found in walk(directory):
        status = found.status
        if stat.S_ISDIR(status.st_mode):
            # Its time changes with its entries, which speak for themselves.
            digest.update(b"%s\0%o\0" % (found.path, status.st_mode))
        else:
            changes = (found.path, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino)
            digest.update(b"%s\0%o %d %d %d\0" % changes)
            newest = max(newest, status.st_mtime_ns)
            size += status.st_size
        entries += 1
    return Fingerprint(digest.digest(), entries, newest, size)
