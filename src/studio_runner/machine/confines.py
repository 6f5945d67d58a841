"""What the control groups around this process leave it of the machine: in a container often a small part."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Confines:
    """The tightest limits of all groups around this process: bytes of memory, cores; None: no limit."""

    memory: int | None = None
    cores: float | None = None


def confines(root: Path = GROUPS, membership: Path = MEMBERSHIP) -> Confines:
    """Looked up in the groups of both versions that are mounted below `root`."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return Confines()
    memory: list[int] = []
    cores: list[float] = []
    for line in lines:
        _, names, path = line.split(":", 2)
        controllers = names.split(",")
        if names == "":
            memory += _numbers(root, path, "memory.max")
            cores += _quotas(root, path)
        if "memory" in controllers:
            memory += _numbers(root / "memory", path, "memory.limit_in_bytes")
        if "cpu" in controllers:
            cores += _quotas_of_version_1(root / "cpu", path)
    return Confines(min(memory, default=None), min(cores, default=None))


def _numbers(root: Path, path: str, name: str) -> Iterator[int]:
    for directory in _around(root, path):
        text = _read(directory / name)
        if text.isdecimal() and int(text) < 1 << 60:  # version 1 writes a number near 2**63 for none
            yield int(text)


def _quotas(root: Path, path: str) -> Iterator[float]:
    """`max 100000` or `150000 100000`: microseconds in so many."""
    for directory in _around(root, path):
        quota, _, period = _read(directory / "cpu.max").partition(" ")
        if quota.isdecimal() and period.isdecimal() and int(period):
            yield int(quota) / int(period)


def _quotas_of_version_1(root: Path, path: str) -> Iterator[float]:
    for directory in _around(root, path):
        quota, period = _read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):  # -1: none
            yield int(quota) / int(period)


def _around(root: Path, path: str) -> Iterator[Path]:
    """The group and every group around it. Inside a container the path may be the host's: then only the root that
    is mounted counts."""
    group = root / path.lstrip("/")
    for directory in (group, *group.parents):
        yield directory
        if directory == root:
            return


def _read(path: Path) -> str:
    """Empty where there is no such file."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
