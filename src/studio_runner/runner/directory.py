"""The directory of one attempt: made, owned, removed, and found again after a crash.

`<working_dir>/experiments/<short key>.<n>/` holds one directory per artifact label. Whose it is stands in the file
`<working_dir>/runners/<runner>`, one name a line; that runner is alive while it holds the lock on the file, which
the kernel drops at its death. (A file of the owner's in every directory would cost each experiment one more.)
"""

import contextlib
import fcntl
import itertools
import logging
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from studio_runner.errors import StorageUnavailableError
from studio_runner.process.hidden import FOLDER, places_of

log = logging.getLogger(__name__)

NOBODY = "-"
UNOWNED_GRACE = 60.0
"""Seconds after which a directory of nobody's is a leftover, not one just being made."""


@dataclass(frozen=True)
class Leftover:
    """The directory of an attempt whose runner is dead; `tag` marks the attempt's processes."""

    path: Path
    tag: str


class Premises:
    """This runner's part of a working directory, while it holds the lock that says it is alive."""

    def __init__(self, working_dir: Path, runner: str, descriptor: int) -> None:
        self._parent = working_dir / "experiments"
        self._runner = runner
        self._descriptor = descriptor
        self._occupied: set[str] = set()

    def create(self, short_key: str, number: int) -> Path:
        """A fresh directory for attempt `number`, or for the next number that is free (an earlier attempt under the
        same number may still be about to vanish)."""
        try:
            for candidate in itertools.count(number):
                path = self._parent / f"{short_key}.{candidate}"
                with contextlib.suppress(FileExistsError):
                    path.mkdir(mode=0o700)
                    self._occupy(path)
                    return path
        except OSError as error:
            raise StorageUnavailableError(
                f"no directory for the experiment could be made in {self._parent}: {error.strerror}",
                hint="the runner's disk may be full; `studio-runner doctor` looks",
            ) from error
        raise AssertionError

    def _occupy(self, path: Path) -> None:
        """Write down that it is ours, or leave no trace of it. (A disk that gets full may leave half a line.)"""
        try:
            os.write(self._descriptor, f"\n{path.name}\n".encode())
        except OSError:
            path.rmdir()
            raise
        self._occupied.add(path.name)

    def remove(self, path: Path) -> None:
        """Delete the directory and all that is in it."""
        remove_attempt(path)
        self._occupied.discard(path.name)
        if not self._occupied:
            os.ftruncate(self._descriptor, 0)

    def tag(self, path: Path) -> str:
        """Names one attempt among all of this machine; its processes carry it in their environment."""
        return _tag(self._runner, path)


def _tag(runner: str, path: Path) -> str:
    return f"{runner}/{path.name}"


@contextlib.contextmanager
def occupied(working_dir: Path, runner: str) -> Iterator[Premises]:
    """Be alive in this working directory until the context ends."""
    for name in ("experiments", "runners", FOLDER):
        (working_dir / name).mkdir(parents=True, exist_ok=True, mode=0o700)
    path = working_dir / "runners" / runner
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield Premises(working_dir, runner, descriptor)
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def leftovers(working_dir: Path) -> list[Leftover]:
    """Directories of attempts whose runner is dead."""
    owners, alive = _owners(working_dir / "runners")
    found = []
    for path in (working_dir / "experiments").iterdir():
        owner = owners.get(path.name, NOBODY)
        if owner not in alive and (owner != NOBODY or _age(path) > UNOWNED_GRACE):
            found.append(Leftover(path, _tag(owner, path)))
    return found


def remove_attempt(path: Path) -> None:
    """Delete the directory of an attempt, and what is noted of its output."""
    remove(path)
    places_of(path).unlink(missing_ok=True)


def clear_notes(working_dir: Path) -> None:
    """Remove what is noted of the output of attempts that are gone."""
    for path in (working_dir / FOLDER).iterdir():
        if not (working_dir / "experiments" / path.name).exists():
            path.unlink(missing_ok=True)


def clear_dead_runners(working_dir: Path) -> None:
    """Remove the files of runners that died."""
    for path in (working_dir / "runners").iterdir():
        if not _alive(path):
            path.unlink(missing_ok=True)


def _owners(place: Path) -> tuple[dict[str, str], set[str]]:
    """Whose directory is whose, and who is alive; the living are asked last, so that theirs counts."""
    files = sorted((path for path in place.iterdir()), key=_alive)
    alive = {path.name for path in files if _alive(path)}
    owners: dict[str, str] = {}
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            owners.update(dict.fromkeys(path.read_text().split(), path.name))
    return owners, alive


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


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def remove(path: Path) -> None:
    """Delete the directory and all in it, however deep and whatever modes a script gave it. What resists is said,
    not raised."""
    try:
        _clear(path)
        path.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("the directory %s could not be removed: %s", path, error)


def _clear(root: Path) -> None:
    """Empty `root`. Directories further down are first moved up into it, so no path gets longer than it is."""
    names = (f".removed-{number}" for number in itertools.count())
    while folders := _without_files(root):
        for folder in folders:
            for inner in _without_files(folder):
                os.rename(inner, root / next(names))  # noqa: PTH104 - on the path of every experiment
            os.rmdir(folder)  # noqa: PTH106


def _without_files(folder: str | Path) -> list[str]:
    """Delete what is directly in the folder and no directory; the directories there."""
    try:
        listing = os.scandir(folder)
    except PermissionError:
        os.chmod(folder, stat.S_IRWXU)  # noqa: PTH101
        listing = os.scandir(folder)
    folders = []
    with listing:
        for entry in listing:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            else:
                _unlink(entry.path, folder)
    return folders


def _unlink(path: str, folder: str | Path) -> None:
    try:
        os.unlink(path)  # noqa: PTH108
    except PermissionError:
        os.chmod(folder, stat.S_IRWXU)  # noqa: PTH101
        os.unlink(path)  # noqa: PTH108
