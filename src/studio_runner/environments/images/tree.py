"""An image's files, counted and protected in one walk. Trees have thousands, so no pathlib inside of them."""

import hashlib
import os
import stat
from pathlib import Path

_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
_PRIVILEGE = stat.S_ISUID | stat.S_ISGID
_MODES = 0o777
_PIECE = 1 << 20


def measure(top: Path) -> tuple[int, int, str]:
    """Files, bytes and, of a single file, the SHA-256; takes every write permission away on the way, and
    the bits that make programs run as somebody else, which no container honours.

    In a container the image is mounted read-only anyhow, whatever its modes are. Outside, this keeps others of the
    same account from changing it by mistake. OSError.
    """
    status = top.lstat()
    if stat.S_ISDIR(status.st_mode):
        files, size = _walk(str(top))
        return files, size, ""
    _protect(str(top), status)
    return 1, status.st_size, _sha256(top)


def _walk(top: str) -> tuple[int, int]:
    files = size = 0
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                files += 1
                if stat.S_ISDIR(status.st_mode):
                    _open_up(entry.path, status)
                    waiting.append(entry.path)
                    continue
                size += status.st_size
                if not stat.S_ISLNK(status.st_mode):
                    _protect(entry.path, status)
        _protect(folder, os.stat(folder))
    return files, size


def _open_up(folder: str, status: os.stat_result) -> None:
    """Images have directories that not even their owner may list."""
    if status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(folder, status.st_mode & _MODES | stat.S_IRWXU)


def _protect(path: str, status: os.stat_result) -> None:
    if status.st_mode & (_WRITE | _PRIVILEGE):
        os.chmod(path, status.st_mode & _MODES & ~_WRITE)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
