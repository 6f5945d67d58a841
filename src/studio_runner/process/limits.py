"""What a process tree may use: kernel limits that it starts with, and watching what the kernel does not limit."""

import os
import resource
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_LONG = 3000
"""Bytes of a path after which it is not made longer; the kernel takes 4,096, one name has 255 at most."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")


OOM_SCORE, OOM_SCORE_UNBOUND = 300, 1000
"""How willingly the kernel, short of memory, takes an experiment: one that named its memory, and one that did not.
The runner's own figure is about 0: it goes last."""


@dataclass(frozen=True)
class Membership:
    """Control groups, by their files: a process that writes 0 into each of `join` is a member; `birth` is the group
    among them that it is forked into where the kernel can do that, empty: none; `kill` says what to write where
    before members are killed one by one."""

    join: tuple[str, ...] = ()
    birth: str = ""
    kill: tuple[tuple[str, str], ...] = ()


NO_GROUPS = Membership()


@dataclass(frozen=True)
class Limits:
    """What every process of a tree starts with; 0 leaves the runner's own limits. Core dumps are always off.

    `processes` counts all of the user's, not those of the tree: good for keeping the last process numbers free, not
    for a bound on one experiment, which would be refused a fork because of its neighbours.
    """

    open_files: int = 0
    file_size: int = 0
    processes: int = 0
    oom_score: int = OOM_SCORE
    groups: Membership = NO_GROUPS

    def kernel(self) -> list[tuple[int, int, int]]:
        """As (resource, soft, hard), never above what this process has itself."""
        wanted = (
            (resource.RLIMIT_NOFILE, self.open_files),
            (resource.RLIMIT_FSIZE, self.file_size),
            (resource.RLIMIT_NPROC, self.processes),
        )
        return [(resource.RLIMIT_CORE, 0, 0), *(_bounded(kind, value) for kind, value in wanted if value)]


def most_processes() -> int:
    """Processes and threads that experiments of this user may have together, so that the last numbers are left to
    the runner. Where the kernel bounds a tree by itself this is not needed; root is never bounded so."""
    most = [int(_read(path) or b"0") for path in ("/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max")]
    return min(most) * 3 // 4


def _bounded(kind: int, value: int) -> tuple[int, int, int]:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    return kind, value, value


@dataclass(frozen=True)
class TreeUsage:
    """What a tree uses at one moment: resident bytes, CPU seconds of its live processes, their number."""

    rss: int
    cpu_seconds: float
    processes: int


class Tree(Protocol):
    """What is watched (`spawn.Process`)."""

    def pids(self) -> list[int]: ...


def sample(pids: Iterable[int]) -> TreeUsage:
    """Pages that several processes share count once, as far as the kernel says (PSS)."""
    pids = list(pids)
    cpu = [seconds for pid in pids if (seconds := _cpu_seconds(pid)) is not None]
    return TreeUsage(rss=sum(map(_proportional_memory, pids)), cpu_seconds=sum(cpu), processes=len(cpu))


def memory(pids: Collection[int], limit: int) -> int:
    """Bytes of memory of these processes, exact only above the limit (0: none).

    The sum of resident sizes costs little and counts shared pages several times, so it can only be too large;
    when it passes the limit, the proportional sizes decide (a data loader's workers share most of their pages).
    """
    used = sum(map(_resident_memory, pids))
    return used if used <= limit or not limit else sum(map(_proportional_memory, pids))


def disk_usage(directory: Path) -> int:
    """Bytes allocated on disk below `directory`, hard links once, no link followed. Blocks: run it in a thread."""
    return _usage(str(directory), set())


def _usage(top: str, linked: set[tuple[int, int]]) -> int:
    total, waiting = 0, [top]
    while waiting:
        place = waiting.pop()
        if len(os.fsencode(place)) > _LONG:
            total += _usage_further_down(place, linked)
            continue
        try:
            entries = os.scandir(place)
        except OSError:  # removed meanwhile, or made unreadable by the script
            continue
        with entries:
            for entry in entries:
                status = _status(entry)
                if status is None or (status.st_dev, status.st_ino) in linked:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif status.st_nlink > 1:
                    linked.add((status.st_dev, status.st_ino))
                total += status.st_blocks * 512
    return total


def _usage_further_down(place: str, linked: set[tuple[int, int]]) -> int:
    """Where paths get too long for the kernel it goes on from the open directory: nothing hides in the depth."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return _usage(f"/proc/self/fd/{descriptor}", linked)
    finally:
        os.close(descriptor)


def _status(entry: "os.DirEntry[str]") -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except OSError:
        return None


def _cpu_seconds(pid: int) -> float | None:
    """Ended and waited-for children included; None when it has ended."""
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    if not fields or fields[0] == b"Z":
        return None
    return sum(map(int, fields[11:15])) / _TICK


def _resident_memory(pid: int) -> int:
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * _PAGE if fields else 0


def _proportional_memory(pid: int) -> int:
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return _resident_memory(pid)  # another user's by now (setuid), or an old kernel


def _read(path: str) -> bytes:
    """Empty when the process has ended or may not be looked at."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(file, 65536)
    except OSError:
        return b""
    finally:
        os.close(file)
