"""What the machine has: cores, memory, disk, as far as this process may use them."""

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from studio_runner.config.settings import MachineSettings
from studio_runner.machine.confines import confines

LEAST_ROOM = 16 << 20
"""Bytes free without which no experiment is begun (on a small disk: a twentieth of it)."""


@dataclass(frozen=True)
class Capacity:
    """An amount of machine: whole cores, bytes of memory, bytes of disk."""

    cores: int
    memory: int
    disk: int

    def __add__(self, other: "Capacity") -> "Capacity":
        return Capacity(self.cores + other.cores, self.memory + other.memory, self.disk + other.disk)

    def __sub__(self, other: "Capacity") -> "Capacity":
        return Capacity(self.cores - other.cores, self.memory - other.memory, self.disk - other.disk)

    def __le__(self, other: "Capacity") -> bool:
        """Whether it fits into `other`: no dimension is larger. (Of two, neither may fit into the other.)"""
        return self.cores <= other.cores and self.memory <= other.memory and self.disk <= other.disk


NOTHING = Capacity(cores=0, memory=0, disk=0)


def inventory(settings: MachineSettings, working_dir: Path) -> Capacity:
    """Cores this process may run on, memory it may use, space free on the disk of `working_dir`, each cut to its
    setting where that is smaller (0: no cut)."""
    around = confines()
    return Capacity(
        cores=_cut(_cut(_cores(), max(1, int(around.cores or 0)) if around.cores else 0), settings.max_cores),
        memory=_cut(_cut(psutil.virtual_memory().total, around.memory or 0), settings.max_mem),
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
