"""Where control groups can be made: looked up once, nothing is changed by looking.

Version 2 (one tree for everything) is used where it offers a controller to this process, version 1 (a tree per
controller) otherwise; where both are mounted, version 2 may still be what kills a group at once.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from studio_runner.process.keeper import descendants

MEMORY, CPU, PIDS = "memory", "cpu", "pids"
CONTROLLERS = (MEMORY, CPU, PIDS)
OWN_LEAF = "studio-runner.members"
"""Where the members of a version 2 group go, since a group that hands out controllers may have none itself."""

_DELEGATED = ("trusted.delegate", "user.delegate")
"""Extended attributes by which systemd marks the groups that it leaves to others."""
_MEND = (
    "Give the runner a control group of its own: Delegate=yes in its systemd unit, or a container that may write "
    "to its own; docs/how-to/operate-a-runner.md shows both."
)


@dataclass(frozen=True)
class Hierarchy:
    """One mounted tree: groups go below `base`, and these of the controllers can be used there.

    No controller: good for killing only.
    """

    version: int
    base: Path
    controllers: frozenset[str]


@dataclass(frozen=True)
class Obstacle:
    """Why a controller cannot be used, and what to do about it."""

    sentence: str
    mend: str = _MEND


@dataclass(frozen=True)
class Found:
    """What there is for this process; every controller is in a hierarchy or has its obstacle."""

    hierarchies: tuple[Hierarchy, ...] = ()
    obstacles: Mapping[str, Obstacle] = field(default_factory=dict)

    def holding(self, controller: str) -> Hierarchy | None:
        """The hierarchy that limits by this controller."""
        return next((one for one in self.hierarchies if controller in one.controllers), None)


def switched_off() -> Found:
    """For an operator who wants none."""
    off = Obstacle("switched off (machine.cgroups)", "Set machine.cgroups to auto.")
    return Found((), dict.fromkeys(CONTROLLERS, off))


def find(proc: Path = Path("/proc"), systemd: Path = Path("/run/systemd/system")) -> Found:
    """What this process may use, by its memberships and mounts below `proc`."""
    hierarchies: list[Hierarchy] = []
    obstacles: dict[str, Obstacle] = {}
    for version, base, offered in _places(proc):
        wanted = offered - {name for one in hierarchies for name in one.controllers}
        found = _obstacle(version, base, wanted, _Surroundings(proc, systemd))
        if found:
            obstacles.update(dict.fromkeys(wanted - obstacles.keys(), found))
        elif wanted or version == 2:
            hierarchies.append(Hierarchy(version, base, wanted))
    held = {name for one in hierarchies for name in one.controllers}
    missing = {name: Obstacle(f"no {name} controller is offered to this process") for name in CONTROLLERS}
    return Found(
        tuple(hierarchies), {name: obstacles.get(name, missing[name]) for name in CONTROLLERS if name not in held}
    )


def memory_limits(hierarchy: Hierarchy) -> Iterator[int]:
    """Bytes that `base` and the groups around it allow, as far as they can be seen."""
    name = "memory.max" if hierarchy.version == 2 else "memory.limit_in_bytes"
    for directory in (hierarchy.base, *hierarchy.base.parents):
        try:
            text = (directory / name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < 1 << 60:  # version 1 writes a number near 2**63 for none
            yield int(text)


def members(group: Path) -> list[int]:
    """Processes that are directly in the group; 0 stands for one that cannot be seen from here."""
    try:
        return [int(line) for line in (group / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def is_root(base: Path) -> bool:
    """Of the whole version 2 tree: it alone may have members and hand out controllers."""
    return not (base / "cgroup.type").exists()


@dataclass(frozen=True)
class _Surroundings:
    proc: Path
    systemd: Path


@dataclass(frozen=True)
class _Mount:
    version: int
    root: str
    place: Path
    options: frozenset[str]

    def directory(self, membership: str) -> Path | None:
        """The group of this name, if the mount shows it."""
        root = self.root.rstrip("/")
        if membership != root and not membership.startswith(f"{root}/"):
            return None
        return self.place / membership.removeprefix(root).lstrip("/")


def _places(proc: Path) -> Iterator[tuple[int, Path, frozenset[str]]]:
    """Version, this process's group, and the controllers of interest: version 2 first, it wins."""
    mounts = list(_mounts(proc / "self" / "mountinfo"))
    memberships = sorted(_memberships(proc / "self" / "cgroup"), key=lambda one: bool(one[0]))
    for names, path in memberships:
        for mount in mounts:
            own = mount.directory(path)
            if own is None or not own.is_dir() or names - mount.options or (mount.version == 1) != bool(names):
                continue
            if names:
                yield 1, own, names & set(CONTROLLERS)
            else:
                base = own.parent if own.name == OWN_LEAF else own
                yield 2, base, _offered(base)
            break


def _memberships(path: Path) -> Iterator[tuple[frozenset[str], str]]:
    """Controllers (none: version 2) and the group; named hierarchies limit nothing."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, names, group = (*line.split(":", 2), "", "")[:3]
        if group and "=" not in names:
            yield frozenset(names.split(",")) if names else frozenset(), group


def _mounts(path: Path) -> Iterator[_Mount]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        mounted, _, source = line.partition(" - ")
        fields, kind = mounted.split(), source.split()
        if kind and kind[0] in ("cgroup", "cgroup2"):
            version = 2 if kind[0] == "cgroup2" else 1
            yield _Mount(version, _plain(fields[3]), Path(_plain(fields[4])), frozenset(kind[-1].split(",")))


def _plain(text: str) -> str:
    """Blanks and the like are written in octal there."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _offered(base: Path) -> frozenset[str]:
    try:
        return frozenset((base / "cgroup.controllers").read_text().split()) & set(CONTROLLERS)
    except OSError:
        return frozenset()


def _obstacle(version: int, base: Path, wanted: frozenset[str], around: _Surroundings) -> Obstacle | None:
    if not os.access(base, os.W_OK | os.X_OK) or not os.access(base / "cgroup.procs", os.W_OK):
        return Obstacle(f"{base} cannot be written")
    if around.systemd.is_dir() and not _delegated(base):
        return Obstacle(f"{base} is managed by systemd and not delegated")
    if version == 1 or not wanted or is_root(base):
        return None
    if not os.access(base / "cgroup.subtree_control", os.W_OK):
        return Obstacle(f"{base / 'cgroup.subtree_control'} cannot be written")
    strangers = set(members(base)) - _kin(around.proc)
    if strangers:
        return Obstacle(f"other processes are in {base} too (process {min(strangers)} for one)")
    return None


def _delegated(base: Path) -> bool:
    """By systemd's own mark; an ordinary user, who may be unable to see that, knows it by being given a group of
    another's."""
    for name in _DELEGATED:
        try:
            return os.getxattr(base, name) == b"1"
        except OSError:
            continue
    return 0 != base.stat().st_uid == os.geteuid() != base.parent.stat().st_uid


def _kin(proc: Path) -> set[int]:
    """This process, what it descends from and what descends from it: a container's first process, its shell."""
    own = os.getpid()
    found = {own, *descendants(own)}
    while own > 1:
        try:
            own = int((proc / str(own) / "stat").read_bytes().rpartition(b")")[2].split()[1])
        except OSError:
            break
        found.add(own)
    return found - {0}
