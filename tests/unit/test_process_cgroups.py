"""Where control groups can be made, on machines of all kinds: a tree of files stands for each."""

import os
from pathlib import Path

import pytest

from studio_runner.process.cgroups.files import Share, settings
from studio_runner.process.cgroups.hierarchy import (
    CONTROLLERS,
    CPU,
    MEMORY,
    OWN_LEAF,
    PIDS,
    Found,
    find,
    memory_limits,
)


class Machine:
    """Its /proc, its mounts, and whether systemd runs it."""

    def __init__(self, root: Path) -> None:
        self.root, self.proc, self.systemd = root, root / "proc", root / "systemd"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / str(os.getpid())).mkdir()
        (self.proc / str(os.getpid()) / "stat").write_text(f"{os.getpid()} (a ) b) S {os.getppid()} 0 0")
        self._mounts, self._memberships = [], []

    def version_2(self, own: str, controllers: str = "cpu memory pids", mount_root: str = "/", members=()) -> Path:
        place = self.root / "unified"
        group = place / own.removeprefix(mount_root).lstrip("/")
        group.mkdir(parents=True)
        (group / "cgroup.controllers").write_text(controllers)
        (group / "cgroup.subtree_control").write_text("")
        (group / "cgroup.type").write_text("domain")
        (group / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in members))
        self._mounts.append(f"30 20 0:26 {mount_root} {place} rw - cgroup2 cgroup2 rw,nsdelegate")
        self._memberships.append(f"0::{own}")
        return group

    def version_1(self, names: str, own: str) -> Path:
        place = self.root / "version 1" / names
        group = place / own.lstrip("/")
        group.mkdir(parents=True)
        (group / "cgroup.procs").write_text("")
        escaped = str(place).replace(" ", "\\040")
        self._mounts.append(f"31 20 0:27 / {escaped} rw,relatime - cgroup cgroup rw,{names}")
        self._memberships.append(f"{len(self._memberships) + 1}:{names}:{own}")
        return group

    def found(self) -> Found:
        (self.proc / "self" / "mountinfo").write_text("\n".join(self._mounts) + "\n")
        (self.proc / "self" / "cgroup").write_text("\n".join(self._memberships) + "\n")
        return find(self.proc, self.systemd)


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


def test_version_2_holds_everything_it_offers(machine):
    group = machine.version_2("/runner", members=[os.getpid(), os.getppid()])
    found = machine.found()
    assert not found.obstacles
    assert {found.holding(name).base for name in CONTROLLERS} == {group}


def test_a_container_that_sees_only_its_own_part(machine):
    group = machine.version_2("/docker/abc", mount_root="/docker/abc")
    assert machine.found().holding(MEMORY).base == group == machine.root / "unified"


def test_a_group_outside_of_what_is_mounted_is_not_found(machine):
    machine.version_2("/docker/abc", mount_root="/docker/abc")
    machine._memberships = ["0::/elsewhere"]
    assert not machine.found().hierarchies


def test_the_second_runner_in_a_group_finds_itself_moved_and_uses_the_same_place(machine):
    group = machine.version_2("/runner")
    (group / OWN_LEAF).mkdir()
    machine._memberships = [f"0::/runner/{OWN_LEAF}"]
    assert machine.found().holding(PIDS).base == group


def test_somebody_elses_process_in_the_group_is_left_alone_and_said(machine):
    machine.version_2("/runner", members=[os.getpid(), 4_000_000])
    found = machine.found()
    assert not found.hierarchies
    assert all("4000000" in found.obstacles[name].sentence for name in CONTROLLERS)
    assert all("Delegate=yes" in found.obstacles[name].mend for name in CONTROLLERS)


def test_what_systemd_has_not_delegated_is_systemds(machine):
    machine.version_2("/system.slice/runner.service")
    machine.systemd.mkdir()
    assert "not delegated" in machine.found().obstacles[MEMORY].sentence


def test_version_1_is_used_for_what_version_2_does_not_offer(machine):
    unified = machine.version_2("/", controllers="pids")
    memory, both = machine.version_1("memory", "/job"), machine.version_1("cpu,cpuacct", "/")
    found = machine.found()
    assert {name: found.holding(name).base for name in CONTROLLERS} == {MEMORY: memory, CPU: both, PIDS: unified}
    assert {name: found.holding(name).version for name in CONTROLLERS} == {MEMORY: 1, CPU: 1, PIDS: 2}


def test_a_controller_that_is_nowhere_is_named(machine):
    machine.version_1("memory", "/job")
    found = machine.found()
    assert found.holding(MEMORY)
    assert set(found.obstacles) == {CPU, PIDS}
    assert "no pids controller" in found.obstacles[PIDS].sentence


def test_a_machine_without_any(machine):
    assert set(machine.found().obstacles) == set(CONTROLLERS)
    assert set(find(machine.root / "nothing", machine.systemd).obstacles) == set(CONTROLLERS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_group_that_may_not_be_written(machine):
    machine.version_2("/runner").chmod(0o555)
    assert "cannot be written" in machine.found().obstacles[MEMORY].sentence


def test_the_limits_of_all_groups_around_count(machine):
    group = machine.version_2("/a/b")
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text("1000\n")
    assert list(memory_limits(machine.found().holding(MEMORY))) == [1000]


@pytest.mark.parametrize("version", [1, 2])
def test_without_limits_only_the_weight_is_set(version):
    assert [one.controller for one in settings(version, Share())] == [CPU]
    assert {one.controller for one in settings(version, Share(memory=1, quota=1, processes=1))} == set(CONTROLLERS)


@pytest.mark.parametrize(
    ("cores", "shares", "weight"),
    [(0, "1024", "100"), (1, "1024", "100"), (8, "8192", "800"), (500, "262144", "10000")],
)
def test_the_weight_grows_with_the_cores_within_the_kernels_bounds(cores, shares, weight):
    assert [one.value for one in settings(1, Share(cores=cores))] == [shares]
    assert [one.value for one in settings(2, Share(cores=cores))] == [weight]
