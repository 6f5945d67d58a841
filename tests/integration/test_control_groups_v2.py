"""What only version 2 of control groups has. `make test-cgroup2` runs this where the machine at hand has version 1."""

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from studio_runner.process.base import Command, Exit
from studio_runner.process.cgroups.clearing import clear
from studio_runner.process.cgroups.files import Share, write
from studio_runner.process.cgroups.group import Breach, Group
from studio_runner.process.cgroups.groups import Groups, opened_groups
from studio_runner.process.cgroups.hierarchy import CONTROLLERS, OWN_LEAF, find, members
from studio_runner.process.limits import Limits
from studio_runner.process.spawn import Process, Spawner

FOUND = find()
VERSION_2 = [one for one in FOUND.hierarchies if one.version == 2 and one.controllers == set(CONTROLLERS)]
IN_VM = "RUN_IN_VM" in os.environ
pytestmark = pytest.mark.skipif(
    not VERSION_2 and not IN_VM,
    reason="version 2 has no controllers here: make test-cgroup2 brings a machine that has",
)

MB = 1 << 20
GROUP = """
import os, time
group = "/sys/fs/cgroup" + open("/proc/self/cgroup").read().split(":")[2].strip()
def put(name, text):
    with open(f"{group}/{name}", "r+") as file:
        file.write(text)
"""
"""The script's own group, which an ordinary user may change as well as the runner."""


@pytest.fixture
def base() -> Path:
    return VERSION_2[0].base


@pytest.fixture
async def groups(base: Path) -> AsyncIterator[Groups]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    with opened_groups(FOUND, name, Share(memory=2000 * MB, cores=2)) as opened:
        yield opened
    assert list(base.glob(f"*{name}")) == []


@pytest.fixture
async def spawner() -> AsyncIterator[Spawner]:
    async with Spawner() as opened:
        yield opened


@pytest.fixture
def delegated(groups: Groups, base: Path) -> Iterator[Path]:
    """A group as another would give it to a runner: with controllers, and nobody in it."""
    directory = base / f"delegated-{uuid.uuid4().hex[:8]}"
    directory.mkdir()
    yield directory
    clear(directory)


def run_in(group: Path, script: str) -> str:
    """What it prints, run by a process that is in the group from the start."""
    argv = [sys.executable, "-c", f"open({str(group / 'cgroup.procs')!r}, 'r+').write('0')\n{script}"]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120).stdout


async def start(spawner: Spawner, script: str, group: Group) -> Process:
    with Path("/dev/null").open("wb") as null:
        command = Command((sys.executable, "-I", "-S", "-c", GROUP + script), {}, Path("/"))
        return await spawner.spawn(command, null.fileno(), Limits(groups=group.membership))


async def ended(spawner: Spawner, script: str, group: Group) -> Exit:
    return await (await start(spawner, script, group)).wait()


def test_the_machine_of_these_tests_has_version_2_and_nothing_else():
    assert {one.version for one in FOUND.hierarchies} == {2} or not IN_VM
    assert FOUND.obstacles == {}


# A group that hands out controllers


def test_the_runner_makes_room_in_its_group_and_is_found_there_again(groups, base):
    assert Path("/proc/self/cgroup").read_text().strip().endswith(f"/{OWN_LEAF}")
    assert os.getpid() in members(base / OWN_LEAF)
    assert members(base) == []
    assert set(CONTROLLERS) <= set((base / "cgroup.subtree_control").read_text().split())
    assert find() == FOUND


WITH_A_STRANGER = """
import os, time
from studio_runner.process.cgroups.hierarchy import find

if os.fork() == 0:
    if os.fork() == 0:
        os.closerange(0, 3)
        time.sleep(100)
    os._exit(0)
os.wait()
print(find().obstacles["memory"].sentence)
"""


def test_a_group_with_the_processes_of_others_is_left_as_it_is(delegated):
    assert f"other processes are in {delegated} too" in run_in(delegated, WITH_A_STRANGER)
    assert len(members(delegated)) == 1


def test_the_memory_of_the_runners_own_group_bounds_all_experiments_together(delegated):
    write(delegated / "memory.max", str(1000 * MB))
    modules = "studio_runner.process.cgroups"
    script = f"from {modules} import groups, hierarchy\nprint(groups.room_for_all(hierarchy.find(), {2000 * MB}))"
    assert int(run_in(delegated, script)) == 900 * MB


def test_where_systemd_runs_only_what_it_delegated_is_used(base, tmp_path):
    """An ordinary user is given a group by its owner, root by an attribute."""
    if os.geteuid():
        assert find(systemd=tmp_path) == FOUND
        return
    assert "not delegated" in find(systemd=tmp_path).obstacles["memory"].sentence
    os.setxattr(base, "trusted.delegate", b"1")
    try:
        assert find(systemd=tmp_path) == FOUND
    finally:
        os.removexattr(base, "trusted.delegate")


AT_THE_ROOT = """
import asyncio
from studio_runner.process.cgroups.files import Share
from studio_runner.process.cgroups.groups import opened_groups
from studio_runner.process.cgroups.hierarchy import CONTROLLERS, find

async def main():
    with opened_groups(find(), "test-root", Share(memory=500 << 20)) as groups:
        group = groups.create("one", Share(memory=100 << 20))
        print(all(map(group.holds, CONTROLLERS)), open("/proc/self/cgroup").read().strip())
        await group.remove()

asyncio.run(main())
"""


@pytest.mark.skipif(
    not IN_VM or os.geteuid() != 0, reason="the root of all groups is for the virtual machine's root"
)
def test_at_the_root_of_the_tree_nobody_has_to_move():
    assert run_in(Path("/sys/fs/cgroup"), AT_THE_ROOT) == "True 0::/\n"


# What the kernel does


async def test_all_of_an_experiment_ends_when_one_of_its_processes_has_too_much_memory(spawner, groups):
    group = groups.create("one", Share(memory=100 * MB, processes=50))
    script = "if os.fork() == 0: bytearray(b'x') * (200 << 20)\ntime.sleep(600)"
    assert (await ended(spawner, script, group)).signal == 9
    assert group.look() is Breach.MEMORY
    await group.remove()


async def test_a_quota_holds(spawner, groups, base):
    group = groups.create("one", Share(cores=1, quota=1, processes=50))
    script = "os.fork() or os.fork()\nend = time.process_time() + 1\nwhile time.process_time() < end: pass"
    await ended(spawner, script, group)
    (directory,) = base.glob("studio-runner.test-*/one")
    counted = dict(line.split() for line in (directory / "cpu.stat").read_text().splitlines())
    assert int(counted["nr_throttled"]) > 0
    await group.remove()


# What a script may do to its own group


async def test_groups_that_a_script_makes_in_its_own_are_removed_with_it(spawner, groups):
    group = groups.create("one", Share(memory=100 * MB, processes=50))
    script = """
os.makedirs(f"{group}/inner/more")
if os.fork() == 0:
    put("inner/more/cgroup.procs", "0")
    bytearray(b'x') * (200 << 20)
os.wait()
"""
    await ended(spawner, script, group)
    assert group.look() is Breach.MEMORY
    await group.remove()


async def test_a_script_that_freezes_itself_can_be_stopped(spawner, groups):
    group = groups.create("one", Share(processes=50))
    process = await start(spawner, "put('cgroup.freeze', '1')\ntime.sleep(600)", group)
    await process.stop(0)
    await process.wait()
    assert process.pids() == []
    await group.remove()


async def test_a_script_that_leaves_its_group_is_ended_all_the_same(spawner, groups, base):
    group = groups.create("one", Share(memory=100 * MB, processes=50))
    script = f"put('../../{OWN_LEAF}/cgroup.procs', '0')\nos.fork() or os.setsid()\ntime.sleep(600)"
    process = await start(spawner, script, group)
    async with asyncio.timeout(60):
        while not set(process.pids()) <= set(members(base / OWN_LEAF)) or len(process.pids()) < 2:
            await asyncio.sleep(0.01)
    await process.stop(0)
    await process.wait()
    assert process.pids() == []
    await group.remove()
