"""What the machine has: cores, memory, disk, as far as this process may use them."""

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from studio_runner.config.settings import MachineSettings

LEAST_ROOM = 16 << 20
"""Bytes free without which no experiment is begun (on a small disk: a twentieth of it)."""


@dataclass(frozen=True)
class Capacity:
    """An amount of machine: whole cores, bytes of memory, bytes of disk."""

    cores: int
    memory: int
    disk: int


def inventory(settings: MachineSettings, working_dir: Path) -> Capacity:
    """Cores this process may run on, physical memory, space free on the disk of `working_dir`, each cut to its
    setting where that is smaller (0: no cut)."""
    return Capacity(
        cores=_cut(_cores(), settings.max_cores),
        memory=_cut(psutil.virtual_memory().total, settings.max_mem),
        disk=_cut(_free_disk(working_dir), settings.max_disk),
    )


def has_room(directory: Path) -> bool:
    """Whether anything can be begun on the disk of `directory`, which others may fill whatever is reserved."""
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize >= min(LEAST_ROOM, disk.f_blocks * disk.f_frsize // 20)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _free_disk(directory: Path) -> int:
    existing = next(place for place in (directory, *directory.absolute().parents) if place.exists())
    return psutil.disk_usage(str(existing)).free


def _cut(amount: int, limit: int) -> int:
    return min(amount, limit) if limit > 0 else amount
