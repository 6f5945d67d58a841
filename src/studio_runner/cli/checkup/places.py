"""Directories: there, writable, with room, on file systems that can do what is asked of them."""

import functools
import operator
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from studio_runner.cli.checkup.finding import Finding, Here, ok, problem, warning
from studio_runner.messages.units import format_duration, format_size

LOW, VERY_LOW = 5_000_000_000, 500_000_000
SKEW = 2.0
"""Seconds that the clock of a file server may differ before delays and order suffer."""

_NETWORK = ("nfs", "cifs", "smb", "fuse.sshfs", "fuse.glusterfs", "lustre", "ceph", "9p", "gpfs", "beegfs")


def queue_root(here: Here) -> Iterator[Finding]:
    """Messages are claimed by renaming them."""
    root = here.settings.places.queue_root
    finding = _writable("queue root", root)
    yield finding or ok("queue root", f"{root} {_becomes(root)}")
    if finding or not root.is_dir():
        return
    yield from _open("queue root", root, "messages with their credentials")
    yield from _renames(root)
    for queue in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if not os.access(queue, os.R_OK | os.W_OK | os.X_OK):
            yield problem(
                "queue root",
                f"the queue {queue.name} cannot be read and written by this user",
                f"Run: chown {_user()} {queue}   (or give the group read, write and execute permission)",
            )
    yield from _notifies(root, format_duration(here.settings.queues.poll))


def working_dir(here: Here) -> Iterator[Finding]:
    place = here.settings.places.working_dir
    yield _writable("working directory", place) or ok("working directory", f"{place} {_becomes(place)}")
    yield from _open("working directory", place / "experiments", "workspaces of experiments")


def store(here: Here) -> Iterator[Finding]:
    place = here.settings.places.store
    yield _writable("store", place) or ok("store", f"{place} {_becomes(place)}")
    yield from _open("store", place, "artifacts and records")


def cache(here: Here) -> Iterator[Finding]:
    """Environments are started from here, and their files are links to those in uv's cache."""
    place = here.settings.places.cache_dir
    if finding := _writable("cache", place):
        yield finding
        return
    yield ok("cache", f"{place} {_becomes(place)}")
    yield from _open("cache", place / "artifacts", "artifacts")
    existing = _existing(place)
    if os.statvfs(existing).f_flag & getattr(os, "ST_NOEXEC", 0):  # only Linux knows
        yield problem(
            "cache",
            f"{existing} is mounted noexec: no environment in it can be started",
            "Choose another directory with --cache-dir.",
        )
    uv_cache = here.environ.get("UV_CACHE_DIR")
    yield from _hard_links(_existing(Path(uv_cache).absolute()) if uv_cache else existing, existing)


def disk(here: Here) -> Iterator[Finding]:
    """Room where experiments, environments and results are."""
    places = here.settings.places
    seen = set()
    for place in (places.working_dir, places.cache_dir, places.store, places.queue_root):
        existing = _existing(place)
        device = existing.stat().st_dev
        if device not in seen:
            seen.add(device)
            yield _room(existing)


def _open(subject: str, place: Path, what: str) -> Iterator[Finding]:
    """A place that others can reach. That may be meant, where several accounts share a store or a queue."""
    if not place.is_dir():
        return
    entered = functools.reduce(operator.and_, (path.stat().st_mode for path in (place, *place.parents)))
    if entered & 0o011:
        others = "everybody on this machine" if entered & 0o001 else "a group"
        mend = f"Run: chmod 700 {place}   (unless it is shared on purpose)"
        yield warning(subject, f"{what} in {place} are within reach of {others}", mend)


def _room(place: Path) -> Finding:
    free = shutil.disk_usage(place).free
    status = os.statvfs(place)
    sentence = f"{format_size(free)} free at {place}"
    mend = "Delete what is no longer needed, or choose another place with --working-dir, --cache-dir or --store."
    if status.f_files and status.f_favail < 10_000:
        return problem("disk", f"only {status.f_favail} more files fit on the file system of {place}", mend)
    if free < VERY_LOW:
        return problem("disk", sentence, mend)
    return warning("disk", sentence, mend) if free < LOW else ok("disk", sentence)


def _writable(subject: str, place: Path) -> Finding | None:
    """What is wrong, if anything. A directory that is not there yet must be one that can be made."""
    existing = _existing(place)
    if not existing.is_dir():
        return problem(subject, f"{existing} is not a directory", f"Move {existing} away, or choose another place.")
    try:
        with tempfile.TemporaryFile(dir=existing):
            return None
    except OSError as error:
        return problem(
            subject,
            f"{existing} cannot be written: {error.strerror}",
            f"Run: chown {_user()} {existing}   (or choose another place)",
        )


def _renames(root: Path) -> Iterator[Finding]:
    """Rename, and the file server's clock, tried out in a directory of our own that is no queue."""
    with tempfile.TemporaryDirectory(dir=root, prefix=".doctor-") as directory:
        source, target = Path(directory, "a"), Path(directory, "b")
        source.write_text("new")
        target.write_text("old")
        skew = source.stat().st_mtime - time.time()
        try:
            source.rename(target)
        except OSError as error:
            yield problem(
                "queue root",
                f"a file in {root} cannot be renamed: {error.strerror}",
                "Claims need atomic renames: choose another place with --queue-root.",
            )
            return
    yield ok("queue root", "files can be renamed over one another")
    if abs(skew) > SKEW:
        yield warning(
            "clock",
            f"the file server's clock is {format_duration(abs(skew))} {'ahead of' if skew > 0 else 'behind'} ours",
            "Let both keep time with NTP; until then delayed messages come too early or too late.",
        )


def _notifies(root: Path, poll: str) -> Iterator[Finding]:
    kind = file_system(root)
    if kind.startswith(_NETWORK):
        yield warning(
            "queue root",
            f"{root} is on a network file system ({kind}), which does not tell what arrives from elsewhere",
            f"Messages from other machines are noticed within {poll} (--poll).",
        )


def _hard_links(uv_cache: Path, cache: Path) -> Iterator[Finding]:
    """Between uv's cache (inside ours unless UV_CACHE_DIR says otherwise) and ours."""
    temporary = tempfile.TemporaryDirectory
    with temporary(dir=uv_cache, prefix=".doctor-") as there, temporary(dir=cache, prefix=".doctor-") as here:
        source = Path(there, "a")
        source.touch()
        try:
            Path(here, "b").hardlink_to(source)
        except OSError as error:
            yield warning(
                "cache",
                f"files of uv's cache in {uv_cache} cannot be hard-linked into {cache}: {error.strerror}",
                "Environments take their full size each, and longer to build; put both on one file system with "
                "--cache-dir, or unset UV_CACHE_DIR.",
            )
            return
    yield ok("cache", "environments share their files with uv's cache (hard links)")


def file_system(path: Path) -> str:
    """The kind of file system that holds `path` (`ext4`, `nfs4`); empty where the system does not say."""
    try:
        mounts = Path("/proc/self/mounts").read_text()
    except OSError:
        return ""
    wanted, best = path.resolve(), ("", "")
    for line in mounts.splitlines():
        _, mount_point, kind, *_ = line.split()
        point = mount_point.replace("\\040", " ")
        if wanted.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def _existing(place: Path) -> Path:
    """The directory itself, or the nearest one above it that is there."""
    return next(path for path in (place, *place.parents) if os.path.lexists(path))


def _becomes(place: Path) -> str:
    return "is there and can be written" if place.is_dir() else "is not there yet and can be made"


def _user() -> str:
    return str(os.geteuid())
