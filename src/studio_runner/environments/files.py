"""Writing, protecting and removing whole trees of files."""

import errno
import os
import stat
from pathlib import Path

BYTECODE = "__pycache__"
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
    """Take every write permission away below `top`, children before their directory, but leave each directory that
    has Python modules a `__pycache__` that can be written to.

    Hard links share their mode with the file in the installer's cache: that file becomes read-only too, which
    is what it should be, and stays so for the next environment.
    """
    modules = False
    with os.scandir(top) as entries:
        for entry in entries:
            if entry.is_symlink():
                continue
            if entry.is_dir():
                if entry.name != BYTECODE:
                    make_read_only(Path(entry.path))
                continue
            modules = modules or entry.name.endswith(".py")
            mode = entry.stat(follow_symlinks=False).st_mode
            if mode & _WRITE:
                os.chmod(entry.path, stat.S_IMODE(mode) & ~_WRITE)  # noqa: PTH101 (thousands of files)
    if modules:
        (top / BYTECODE).mkdir(exist_ok=True)
    top.chmod(stat.S_IMODE(top.stat().st_mode) & ~_WRITE)


def remove_tree(top: Path) -> None:
    """Remove `top`, read-only directories included. What is gone already is no error, and neither is a second
    remover at the same tree."""
    try:
        top.chmod(stat.S_IRWXU)
        with os.scandir(top) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(Path(entry.path))
                else:
                    Path(entry.path).unlink(missing_ok=True)
        top.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
