"""The directory of one attempt: made, owned, removed, and found again after a crash.

`<working_dir>/experiments/<short key>.<n>/` holds one directory per artifact label. Its owner's name stands in the
file `.owner`; an owner is alive while it holds the lock on `<working_dir>/runners/<runner>`, which the kernel
drops at its death.
"""

import contextlib
import fcntl
import itertools
import logging
import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from studio_runner.errors import StorageUnavailableError

log = logging.getLogger(__name__)

OWNER = ".owner"
UNOWNED_GRACE = 60.0
"""Seconds after which a directory without an owner's name is a leftover, not one just being made."""


@dataclass(frozen=True)
class Leftover:
    """The directory of an attempt whose runner is dead; `tag` marks the attempt's processes."""

    path: Path
    tag: str


def attempt_tag(runner: str, directory: Path) -> str:
    """Names one attempt among all of this machine; its processes carry it in their environment."""
    return f"{runner}/{directory.name}"


def create(working_dir: Path, runner: str, short_key: str, number: int) -> Path:
    """A fresh directory for attempt `number`, or for the next number that is free (an earlier attempt under the
    same number may still be about to vanish)."""
    parent = working_dir / "experiments"
    try:
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for candidate in itertools.count(number):
            path = parent / f"{short_key}.{candidate}"
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
                (path / OWNER).write_text(runner)
                return path
    except OSError as error:
        raise StorageUnavailableError(
            f"no directory for the experiment could be made in {parent}: {error.strerror}",
            hint="the runner's disk may be full; `studio-runner doctor` looks",
        ) from error
    raise AssertionError


def remove(path: Path) -> None:
    """Delete the directory and all in it, whatever modes the script gave it. What resists is said, not raised."""
    shutil.rmtree(path, ignore_errors=True)
    if not path.exists():
        return
    with contextlib.suppress(OSError):
        _open_up(path)
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        log.warning("the directory %s could not be removed", path)


def _open_up(folder: Path) -> None:
    folder.chmod(stat.S_IRWXU)
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            _open_up(Path(entry.path))


@contextlib.contextmanager
def runner_lock(working_dir: Path, runner: str) -> Iterator[None]:
    """Hold the lock that says this runner is alive."""
    place = working_dir / "runners"
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = place / runner
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def leftovers(working_dir: Path) -> list[Leftover]:
    """Directories of attempts whose runner is dead."""
    parent = working_dir / "experiments"
    if not parent.is_dir():
        return []
    found = []
    for path in parent.iterdir():
        owner = _owner(path)
        if owner is None:
            continue
        if not _alive(working_dir / "runners" / owner):
            found.append(Leftover(path, attempt_tag(owner, path)))
    return found


def clear_dead_runners(working_dir: Path) -> None:
    """Remove the lock files of runners that died."""
    place = working_dir / "runners"
    for path in place.iterdir() if place.is_dir() else ():
        if not _alive(path):
            path.unlink(missing_ok=True)


def _owner(path: Path) -> str | None:
    """The owner's name, `-` for a nameless leftover, None for what is not ours to touch."""
    if not path.is_dir():
        return None
    try:
        name = (path / OWNER).read_text()
    except OSError:
        name = ""
    if name and "/" not in name:
        return name
    with contextlib.suppress(OSError):
        return "-" if time.time() - path.stat().st_mtime > UNOWNED_GRACE else None
    return None


def _alive(lock_file: Path) -> bool:
    try:
        descriptor = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
