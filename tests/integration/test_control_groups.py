"""Limits that the kernel holds, with whatever control groups this machine has: version 1, version 2 or both."""

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from studio_runner.process.base import Command, Exit
from studio_runner.process.cgroups.clearing import PREFIX, clear_leftovers
from studio_runner.process.cgroups.files import Share
from studio_runner.process.cgroups.group import Breach, Group
from studio_runner.process.cgroups.groups import Groups, opened_groups, room_for_all
from studio_runner.process.cgroups.hierarchy import CPU, MEMORY, PIDS, Found, find, members
from studio_runner.process.limits import OOM_SCORE_UNBOUND, Limits
from studio_runner.process.spawn import Process, Spawner

FOUND = find()
pytestmark = pytest.mark.skipif(  # never where scripts/run-in-vm brings what is needed
    bool(FOUND.obstacles) and "RUN_IN_VM" not in os.environ,
    reason="; ".join(f"{name}: {one.sentence}" for name, one in FOUND.obstacles.items()),
)

MB = 1 << 20
PYTHON = (sys.executable, "-I", "-S", "-c")
HOG = "block = b'x' * (200 << 20); print('survived')"
BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
SLEEP = "import time; print(flush=True); time.sleep(600)"


@pytest.fixture
def runner() -> Iterator[str]:
    """Its name; whatever happens, none of its groups stays."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    yield name
    assert directories(FOUND, name) == []


@pytest.fixture
async def groups(runner: str) -> AsyncIterator[Groups]:
    with opened_groups(FOUND, runner, Share(memory=2000 * MB, cores=2)) as opened:
        yield opened


@pytest.fixture
async def spawner() -> AsyncIterator[Spawner]:
    async with Spawner() as opened:
        yield opened


def directories(found: Found, runner: str) -> list[Path]:
    return [path for one in found.hierarchies for path in one.base.glob(f"{PREFIX}{runner}")]


class Started:
    def __init__(self, process: Process, reader: int) -> None:
        self.process, self._reader = process, reader

    async def line(self) -> bytes:
        line = await asyncio.to_thread(os.read, self._reader, 1000)
        assert line, "it has ended"
        return line

    async def end(self) -> tuple[bytes, Exit]:
        end = await self.process.wait()
        with os.fdopen(self._reader, "rb") as file:
            return file.read(), end


async def start(spawner: Spawner, script: str, group: Group, oom_score: int = 300) -> Started:
    reader, writer = os.pipe()
    try:
        command = Command((*PYTHON, script), {}, Path("/"))
        limits = Limits(groups=group.membership, oom_score=oom_score)
        return Started(await spawner.spawn(command, writer, limits), reader)
    finally:
        os.close(writer)


async def until(true) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


def grouped(group: Group) -> set[int]:
    """Members, the same in every hierarchy."""
    found = [set(members(Path(path).parent)) for path in group.membership.join]
    assert all(one == found[0] for one in found)
    return found[0]


# Membership


async def test_the_script_and_what_it_forks_are_members_and_nobody_else(spawner, groups):
    group = groups.create("one", Share(memory=500 * MB, cores=1, processes=50))
    started = await start(spawner, "import os; os.fork();" + SLEEP, group)
    await until(lambda: len(started.process.pids()) == 2)
    assert grouped(group) == set(started.process.pids())
    assert os.getpid() not in grouped(group)
    assert started.process.supervisor not in grouped(group)
    await started.process.stop(0)
    await started.end()
    await group.remove()


async def test_a_group_is_gone_with_its_experiment(spawner, groups, runner):
    group = groups.create("one", Share(memory=500 * MB, processes=50))
    assert group.look() is None
    await (await start(spawner, "pass", group)).end()
    await group.remove()
    assert all(list(path.glob("one")) == [] for path in directories(FOUND, runner))


async def test_a_member_that_nobody_ended_is_killed_when_the_group_is_removed(spawner, groups):
    group = groups.create("one", Share(processes=50))
    started = await start(spawner, SLEEP, group)
    await started.line()
    await group.remove()
    assert (await started.end())[1].signal == signal.SIGKILL


async def test_two_attempts_cannot_have_the_same_group_and_the_second_does_without(spawner, groups, caplog):
    first = groups.create("one", Share(memory=500 * MB))
    second = groups.create("one", Share(memory=500 * MB))
    assert first.holds(MEMORY)
    assert not second.holds(MEMORY)
    assert "without control groups" in caplog.text
    assert (await (await start(spawner, "print('ran')", second)).end())[0] == b"ran\n"
    await second.remove()
    await first.remove()


# Memory


async def test_a_memory_hog_is_ended_and_its_peak_is_known(spawner, groups):
    group = groups.create("hog", Share(memory=100 * MB, processes=50))
    output, end = await (await start(spawner, HOG, group)).end()
    assert output == b""
    assert end.signal == signal.SIGKILL
    assert group.look() is Breach.MEMORY
    assert 90 * MB < group.counters().peak <= 100 * MB
    await group.remove()


async def test_many_processes_together_reach_the_limit_that_none_reaches_alone(spawner, groups):
    script = """
import os, time
for _ in range(5):
    if os.fork() == 0:
        block = bytearray(os.urandom(1 << 20) * 30)
        time.sleep(600)
time.sleep(600)
"""
    group = groups.create("hogs", Share(memory=100 * MB, processes=50))
    started = await start(spawner, script, group)
    async with asyncio.timeout(60):
        assert await group.breached() is Breach.MEMORY
    started.process.kill()
    await started.end()
    await group.remove()


async def test_the_neighbour_of_a_memory_hog_is_unharmed(spawner, groups):
    one = groups.create("hog", Share(memory=100 * MB))
    other = groups.create("good", Share(memory=100 * MB))
    good = await start(spawner, "block = b'x' * (50 << 20);" + SLEEP, other)
    await good.line()
    assert (await (await start(spawner, HOG, one)).end())[1].signal == signal.SIGKILL
    assert other.look() is None
    assert good.process.pids()
    await good.process.stop(0)
    await good.end()
    await one.remove()
    await other.remove()


async def test_of_all_together_the_one_that_named_no_memory_is_taken(spawner, runner):
    with opened_groups(FOUND, runner, Share(memory=150 * MB, cores=2)) as groups:
        named, unnamed = groups.create("named", Share(memory=100 * MB)), groups.create("unnamed", Share())
        keeps = "block = b'x' * (60 << 20);" + SLEEP
        good = await start(spawner, keeps, named)
        await good.line()
        _, end = await (await start(spawner, HOG, unnamed, OOM_SCORE_UNBOUND)).end()
        assert end.signal == signal.SIGKILL
        assert (named.look(), unnamed.look()) == (None, Breach.MEMORY)
        assert good.process.pids()
        await good.process.stop(0)
        await good.end()
        await named.remove()
        await unnamed.remove()


async def test_files_that_are_read_and_written_do_not_count_as_too_much(spawner, groups, tmp_path):
    script = f"""
with open({str(tmp_path / "file")!r}, "wb") as file:
    for _ in range(200):
        file.write(bytes(1 << 20))
with open({str(tmp_path / "file")!r}, "rb") as file:
    while file.read(1 << 20):
        pass
print("read")
"""
    group = groups.create("reader", Share(memory=100 * MB))
    assert (await (await start(spawner, script, group)).end())[0] == b"read\n"
    assert group.look() is None
    await group.remove()


# Processes


async def test_a_fork_bomb_stays_within_its_bound_and_is_ended(spawner, groups):
    group = groups.create("bomb", Share(processes=100))
    started = await start(spawner, BOMB, group)
    async with asyncio.timeout(60):
        assert await group.breached() is Breach.PROCESSES
    assert len(grouped(group)) <= 100
    started.process.kill()
    await started.end()
    assert grouped(group) == set()
    await group.remove()


async def test_threads_count_as_well(spawner, groups):
    script = """
import _thread, time
for _ in range(40):
    _thread.start_new_thread(time.sleep, (600,))
time.sleep(600)
"""
    group = groups.create("threads", Share(processes=20))
    started = await start(spawner, script, group)
    async with asyncio.timeout(60):
        assert await group.breached() is Breach.PROCESSES
    started.process.kill()
    await started.end()
    await group.remove()


async def test_a_refusal_that_nobody_heard_of_is_found_afterwards(spawner, groups):
    script = """
import os
try:
    for _ in range(9):
        if os.fork() == 0:
            os.read(0, 1)
            os._exit(0)
except OSError:
    os._exit(3)
"""
    group = groups.create("quick", Share(processes=5))
    _, end = await (await start(spawner, script, group)).end()
    assert end.code == 3 or group.look() is Breach.PROCESSES
    await group.remove()


# Processors


async def test_processors_are_shared_by_what_was_asked_for(groups):
    asked = {
        name: groups.create(name, Share(cores=cores)) for name, cores in (("none", 0), ("one", 1), ("four", 4))
    }
    weight = {name: _number(group, "cpu.shares", "cpu.weight") for name, group in asked.items()}
    assert weight["none"] == weight["one"] == weight["four"] / 4
    for group in asked.values():
        await group.remove()


async def test_a_quota_is_set_only_where_there_is_one(groups):
    free, bound = groups.create("free", Share(cores=1)), groups.create("bound", Share(cores=1, quota=2))
    quota = {group: _text(group, "cpu.cfs_quota_us", "cpu.max").split()[0] for group in (free, bound)}
    assert quota[free] in ("-1", "max")
    assert quota[bound] == "200000"
    await free.remove()
    await bound.remove()


def _text(group: Group, *names: str) -> str:
    """Of the file that there is."""
    paths = [Path(entry).parent / name for entry in group.membership.join for name in names]
    return next(path for path in paths if path.exists()).read_text()


def _number(group: Group, *names: str) -> int:
    return int(_text(group, *names))


# Runners that die


ORPHANED = """
import asyncio, os, sys
from pathlib import Path
from studio_runner.process.base import Command
from studio_runner.process.cgroups.files import Share
from studio_runner.process.cgroups.groups import opened_groups
from studio_runner.process.cgroups.hierarchy import find
from studio_runner.process.limits import Limits
from studio_runner.process.spawn import Spawner

async def main():
    async with Spawner() as spawner:
        with opened_groups(find(), sys.argv[1], Share(memory=1 << 30)) as groups:
            group = groups.create("one", Share(memory=500 << 20, processes=50))
            script = "import os, time; print('script', os.getpid(), flush=True); time.sleep(600)"
            process = await spawner.spawn(
                Command((sys.executable, "-I", "-S", "-c", script), {}, Path("/")), 1, Limits(groups=group.membership)
            )
            server = Path(f"/proc/{process.supervisor}/stat").read_text().split(")")[1].split()[1]
            print(f"supervisor {process.supervisor}\\nserver {server}", flush=True)
            await process.wait()

asyncio.run(main())
"""


def dead_runner(name: str, *stopped: str) -> dict[str, int]:
    """Of a runner with an experiment in its group that was killed: `server`, `supervisor` and `script`, those that
    are `stopped` among them unable to clear up."""
    with subprocess.Popen([sys.executable, "-c", ORPHANED, name], stdout=subprocess.PIPE) as dying:
        assert dying.stdout
        found = dict(dying.stdout.readline().split() for _ in range(3))
        pids = {who.decode(): int(pid) for who, pid in found.items()}
        for who in stopped:
            os.kill(pids[who], signal.SIGSTOP)
        dying.kill()
    return pids


async def test_when_a_runner_dies_its_supervisor_removes_the_group(runner):
    dead_runner(runner)
    await until(lambda: not directories(FOUND, runner))


async def test_the_next_runner_ends_and_removes_what_nobody_else_did(runner):
    left = dead_runner(runner, "supervisor", "server")
    await asyncio.to_thread(clear_leftovers, FOUND.hierarchies)
    await until(lambda: directories(FOUND, runner) == [])  # the runner of another test may be at it just now
    for who in ("server", "supervisor"):
        os.kill(left[who], signal.SIGCONT)
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left.values()))


async def test_what_belongs_to_a_living_runner_is_left_alone(groups, spawner, runner):
    group = groups.create("one", Share(processes=50))
    started = await start(spawner, SLEEP, group)
    await started.line()
    await asyncio.to_thread(clear_leftovers, FOUND.hierarchies)
    assert started.process.pids()
    assert len(directories(FOUND, runner)) == len(FOUND.hierarchies)
    await started.process.stop(0)
    await started.end()
    await group.remove()


# What a runner gives out


def test_experiments_leave_the_runner_some_memory():
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert room_for_all(FOUND, machine) < machine
    assert room_for_all(FOUND, 100 * MB) == 100 * MB


def test_everything_is_held_here():
    assert all(FOUND.holding(name) for name in (MEMORY, CPU, PIDS))
