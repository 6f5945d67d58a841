"""Where the runtime keeps things while containers run, outside of what they see: gone when the runner is.

`<directory>/run-*` is one runner's, who holds the lock on it as long as it has that name; the kernel drops that at
its death, and the next runner removes what is left.
"""

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from studio_runner.environments.files import remove_tree

_JUST_MADE = 60.0
"""Seconds after which a directory that never had its lock is a leftover."""


@contextmanager
def workroom(directory: Path) -> Iterator[Path]:
    """An empty directory of this runner's own."""
    directory.mkdir(parents=True, exist_ok=True)
    _clear(directory)
    made = Path(tempfile.mkdtemp(prefix="new-", dir=directory))
    path = made.with_name(made.name.replace("new-", "run-", 1))
    descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        made.rename(path)
        yield path
    finally:
        remove_tree(path)
        os.close(descriptor)


def _clear(directory: Path) -> None:
    """Remove those of the dead, but not one that was made a moment ago and is not locked yet."""
    for path in (*directory.glob("run-*"), *directory.glob("new-*")):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.name.startswith("run-") or time.time() - os.fstat(descriptor).st_ctime > _JUST_MADE:
                    remove_tree(path)
            finally:
                os.close(descriptor)
