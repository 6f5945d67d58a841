"""Version 2: making a group hand out its controllers to the groups below it."""

import contextlib
from pathlib import Path

from studio_runner.process.cgroups.files import write
from studio_runner.process.cgroups.hierarchy import OWN_LEAF, is_root, members

_ROUNDS = 100
"""Of moving members; each finds what was forked meanwhile."""


def hand_out(group: Path, controllers: frozenset[str]) -> frozenset[str]:
    """Let the groups below `group` be limited by these; those of them for which that worked.

    A group that hands out controllers may not have members: they are moved into one of their own below it. OSError
    when that cannot be done.
    """
    if not is_root(group) and members(group):
        _move_members(group)
    for controller in controllers:
        with contextlib.suppress(OSError):
            write(group / "cgroup.subtree_control", f"+{controller}")
    return controllers & set((group / "cgroup.subtree_control").read_text().split())


def _move_members(group: Path) -> None:
    leaf = group / OWN_LEAF
    leaf.mkdir(exist_ok=True)
    for _ in range(_ROUNDS):
        found = members(group)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                write(leaf / "cgroup.procs", str(pid))
        if not found:
            return
    raise OSError(f"the members of {group} cannot be moved")
