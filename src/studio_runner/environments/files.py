"""Writing, protecting and removing whole trees of files. Trees have thousands, so no pathlib inside of them."""

import contextlib
import errno
import os
import stat
from pathlib import Path

BYTECODE = "__pycache__"
_READ_ONLY = 0o555
_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def write_atomically(path: Path, text: str) -> None:
    """Readers see the old or the new text, never a part, whatever process dies.

    Nothing is flushed: that would wait for a whole new environment to reach the disk. What a loss of power can
    leave behind is an empty file, which no reader takes for a text.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def make_read_only(top: Path) -> None:
    """Take every write permission away below `top`, but leave each directory that has modules a `__pycache__`
    that can be written to.

    Hard links share their mode with the file in the installer's cache: that file becomes read-only too, which
    is what it should be, and stays so for the next environment.
    """
    waiting = [str(top)]
    while waiting:
        folder = waiting.pop()
        modules = False
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != BYTECODE:
                        waiting.append(entry.path)
                elif not entry.is_symlink():
                    modules = modules or entry.name.endswith(".py")
                    mode = entry.stat(follow_symlinks=False).st_mode
                    if mode & _WRITE:
                        os.chmod(entry.path, stat.S_IMODE(mode) & ~_WRITE)
        if modules:
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{folder}/{BYTECODE}")
        os.chmod(folder, _READ_ONLY)


def remove_tree(top: Path | str) -> None:
    """Remove `top`, read-only directories included. What is gone already is no error, and neither is a second
    remover at the same tree."""
    try:
        os.chmod(top, stat.S_IRWXU)
        with os.scandir(top) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(entry.path)
                else:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(entry.path)
        os.rmdir(top)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
