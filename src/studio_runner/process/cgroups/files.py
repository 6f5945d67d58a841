"""What is written into a group's files and read from them, in both versions."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from studio_runner.process.cgroups.hierarchy import CPU, MEMORY, PIDS, Hierarchy

PERIOD = 100_000
"""Microseconds over which a quota of processor time is counted."""
_SHARES, _WEIGHT = 1024, 100
"""The kernel's own figures for one ordinary share of the processors."""


@dataclass(frozen=True)
class Share:
    """What the members of a group may have together; 0: as much as there is. `cores` (at least one) weigh against
    those of other groups, `quota` is a number of cores that cannot be passed."""

    memory: int = 0
    cores: int = 0
    quota: int = 0
    processes: int = 0


@dataclass(frozen=True)
class Setting:
    """One line into one file; what is not `needed` is missing in some kernels."""

    controller: str
    file: str
    value: str
    needed: bool = True


@dataclass(frozen=True)
class Counters:
    """What has happened in a group so far; `peak` is bytes, 0 where the kernel does not tell."""

    oom_kills: int = 0
    refused_forks: int = 0
    peak: int = 0


def settings(version: int, share: Share) -> Iterator[Setting]:
    """What makes a group hold its share."""
    return _version_1(share) if version == 1 else _version_2(share)


def _version_1(share: Share) -> Iterator[Setting]:
    if share.memory:
        yield Setting(MEMORY, "memory.limit_in_bytes", str(share.memory))
        yield Setting(MEMORY, "memory.memsw.limit_in_bytes", str(share.memory), needed=False)
    yield Setting(CPU, "cpu.shares", str(_scaled(share.cores, _SHARES, 2, 262_144)))
    if share.quota:
        yield Setting(CPU, "cpu.cfs_period_us", str(PERIOD))
        yield Setting(CPU, "cpu.cfs_quota_us", str(share.quota * PERIOD))
    if share.processes:
        yield Setting(PIDS, "pids.max", str(share.processes))


def _version_2(share: Share) -> Iterator[Setting]:
    if share.memory:
        yield Setting(MEMORY, "memory.max", str(share.memory))
        yield Setting(MEMORY, "memory.swap.max", "0", needed=False)
    yield Setting(CPU, "cpu.weight", str(_scaled(share.cores, _WEIGHT, 1, 10_000)))
    if share.quota:
        yield Setting(CPU, "cpu.max", f"{share.quota * PERIOD} {PERIOD}")
    if share.processes:
        yield Setting(PIDS, "pids.max", str(share.processes))


def _scaled(cores: int, unit: int, least: int, most: int) -> int:
    return min(most, max(least, (cores or 1) * unit))


def together() -> Setting:
    """Version 2: one member killed for lack of memory takes the others along."""
    return Setting(MEMORY, "memory.oom.group", "1", needed=False)


def write_settings(directory: Path, controllers: frozenset[str], wanted: Iterator[Setting]) -> None:
    """OSError when one that is needed cannot be written."""
    for setting in wanted:
        if setting.controller in controllers:
            with contextlib.nullcontext() if setting.needed else contextlib.suppress(OSError):
                write(directory / setting.file, setting.value)


def write(path: Path, text: str) -> None:
    """Into a file that is there: nothing is ever created in a group."""
    with path.open("r+b", buffering=0) as file:
        file.write(text.encode())


def entry_file(hierarchy: Hierarchy) -> str:
    """A process that writes 0 into it becomes a member. (`tasks` spares the lock that `cgroup.procs` takes over all
    forks of the machine, which is ten milliseconds now and then.)"""
    return "tasks" if hierarchy.version == 1 else "cgroup.procs"


def killing(directory: Path, hierarchy: Hierarchy) -> Iterator[tuple[str, str]]:
    """What to write where so that nothing in the group gets away: no more forks, and the kernel's own kill."""
    if PIDS in hierarchy.controllers:
        yield str(directory / "pids.max"), "0"
    if (directory / "cgroup.kill").exists():
        yield str(directory / "cgroup.kill"), "1"


def counters(directory: Path, hierarchy: Hierarchy) -> Counters:
    """Nothing of what cannot be read."""
    kills = refused = peak = 0
    if MEMORY in hierarchy.controllers:
        events, most = (
            ("memory.oom_control", "memory.max_usage_in_bytes")
            if hierarchy.version == 1
            else ("memory.events", "memory.peak")
        )
        kills = _keyed(directory / events, b"oom_kill")
        peak = int(_read(directory / most) or b"0")
    if PIDS in hierarchy.controllers:
        refused = _keyed(directory / "pids.events", b"max")
    return Counters(kills, refused, peak)


def _keyed(path: Path, key: bytes) -> int:
    for line in _read(path).splitlines():
        name, _, value = line.partition(b" ")
        if name == key:
            return int(value)
    return 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
