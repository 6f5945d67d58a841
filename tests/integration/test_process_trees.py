"""Real process trees: started, looked after, and proved gone whatever they do."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from studio_runner.errors import EnvironmentFailedError, ExperimentError, InvalidMessageError, Reason
from studio_runner.process import keeper
from studio_runner.process.base import Command, Exit
from studio_runner.process.keeper import descendants
from studio_runner.process.limits import Limits, memory, sample
from studio_runner.process.lines import LineScanner
from studio_runner.process.output import Output
from studio_runner.process.spawn import Process, Spawner
from studio_runner.process.sweep import sweep
from studio_runner.process.treewatch import TreeWatch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="trees are followed through /proc")

UNLIMITED = Limits()
PYTHON = (sys.executable, "-I", "-S", "-c")
DAEMON = """
import os, sys, time
def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            null = os.open("/dev/null", os.O_RDWR)
            for descriptor in range(3):
                os.dup2(null, descriptor)
            os.environ.clear()
            time.sleep(600)
        os._exit(0)
    os.wait()
"""
"""A daemon as in the books: own session, own parent, nothing of the old descriptors."""


@pytest.fixture
async def spawner() -> AsyncIterator[Spawner]:
    async with Spawner() as spawner:
        yield spawner


class Started:
    """A process and what it prints."""

    def __init__(self, process: Process, reader: int) -> None:
        self.process = process
        self.reader = reader

    async def line(self) -> bytes:
        """Its next line."""
        line = b""
        while not line.endswith(b"\n"):
            line += (await asyncio.to_thread(os.read, self.reader, 1)) or b"\n"
        return line.strip()

    async def end(self) -> tuple[bytes, Exit]:
        output = await asyncio.to_thread(self._rest)
        return output, await self.process.wait()

    def _rest(self) -> bytes:
        with os.fdopen(self.reader, "rb") as file:
            return file.read()


async def start(
    spawner: Spawner, *argv: str, env: dict[str, str] | None = None, limits: Limits = UNLIMITED
) -> Started:
    reader, writer = os.pipe()
    try:
        return Started(await spawner.spawn(Command(argv, env or {}, Path("/")), writer, limits), reader)
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)


async def run(spawner: Spawner, script: str, **options) -> tuple[bytes, Exit]:
    return await (await start(spawner, *PYTHON, script, **options)).end()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


def server_of(process: Process) -> int:
    return int(Path(f"/proc/{process.supervisor}/stat").read_bytes().rpartition(b")")[2].split()[1])


# What the script finds


async def test_output_and_exit_code_come_back(spawner):
    output, end = await run(
        spawner, "import sys; print('out', flush=True); sys.stderr.write('err\\n'); sys.exit(3)"
    )
    assert output == b"out\nerr\n"
    assert (end.code, end.signal, end.left_behind) == (3, None, 0)
    assert end.peak_memory > 1_000_000
    assert end.cpu_seconds > 0


async def test_the_signal_that_ended_it_comes_back(spawner):
    _, end = await run(spawner, "import os; os.abort()")
    assert (end.code, end.signal) == (None, signal.SIGABRT)


async def test_the_script_starts_with_nothing_inherited(spawner):
    script = """
import json, os, resource, signal
print(json.dumps({
    "descriptors": [name for name in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + name)],
    "stdin": os.readlink("/proc/self/fd/0"),
    "environment": dict(os.environ),
    "directory": os.getcwd(),
    "umask": os.umask(0),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "own session": os.getsid(0) == os.getpid() == os.getpgid(0),
    "oom": int(open("/proc/self/oom_score_adj").read()),
    "status": open("/proc/self/status").read(),
}))
"""
    output, _ = await run(spawner, script, env={"NAME": "value with ünïcode and 'quotes'"})
    found = json.loads(output)
    status = dict(line.split(":\t", 1) for line in found.pop("status").splitlines() if ":\t" in line)
    assert found.pop("environment").pop("NAME") == "value with ünïcode and 'quotes'"
    assert found == {
        "descriptors": ["0", "1", "2"],
        "stdin": "/dev/null",
        "directory": "/",
        "umask": 0o022,
        "core": [0, 0],
        "own session": True,
        "oom": 300,
    }
    assert int(status["SigBlk"], 16) == 0
    interpreters_own = (1 << signal.SIGPIPE - 1) | (1 << signal.SIGXFSZ - 1)
    assert ignored(status["SigIgn"]) & ~interpreters_own == 0


def ignored(mask):
    """The set of ignored signals, without the two that belong to the C library: nobody can change those, and some
    parent of the tests may have left them ignored."""
    return int(mask, 16) & ~(1 << 32 - 1 | 1 << 33 - 1)


async def test_signals_that_the_runner_ignores_are_not_ignored_by_the_script():
    script = "exec grep SigIgn /proc/self/status"
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGUSR1, signal.SIGHUP)}
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        async with Spawner() as spawner:
            output, _ = await (await start(spawner, "/bin/sh", "-c", script, env={"PATH": "/usr/bin:/bin"})).end()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
        for number, handler in before.items():
            signal.signal(number, handler)
    assert ignored(output.split()[1]) == 0


async def test_limits_hold_for_the_script(spawner):
    script = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    output, _ = await run(spawner, script, limits=Limits(open_files=64))
    assert output == b"(64, 64)\n"


async def test_no_descriptor_of_the_runner_is_kept_open():
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    async with Spawner() as spawner:
        started = await start(spawner, *PYTHON, "import time; time.sleep(600)")
        os.close(writer)
        os.set_blocking(reader, False)
        assert os.read(reader, 1) == b""
        await started.process.stop(0)
    os.close(reader)
    os.close(started.reader)


async def test_secrets_are_not_in_view(monkeypatch):
    monkeypatch.setenv("RUNNER_SECRET", "hunter2")
    async with Spawner() as spawner:
        started = await start(spawner, "/bin/sleep", "600", env={"TOKEN": "hunter3"})
        for pid in (server_of(started.process), started.process.supervisor):
            assert b"keeper.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
            for name in ("cmdline", "environ"):
                assert b"hunter" not in Path(f"/proc/{pid}/{name}").read_bytes()
    os.close(started.reader)


async def test_a_large_environment_arrives(spawner):
    environment = {f"LARGE_{number}": "x" * 100_000 for number in range(12)}
    output, _ = await run(spawner, "import os; print(sum(map(len, os.environ.values())))", env=environment)
    assert int(output) >= 1_200_000


# What cannot be started


async def test_a_missing_interpreter_is_the_environments_failure(spawner):
    with pytest.raises(EnvironmentFailedError, match=r"cannot execute /nowhere/python: No such file"):
        await start(spawner, "/nowhere/python")


async def test_a_file_that_is_no_program_is_the_environments_failure(spawner, tmp_path):
    program = tmp_path / "program"
    program.write_bytes(b"\x00 not a program")
    with pytest.raises(EnvironmentFailedError, match="Permission denied"):
        await start(spawner, str(program))
    program.chmod(0o755)
    with pytest.raises(EnvironmentFailedError, match="Exec format error"):
        await start(spawner, str(program))


async def test_a_directory_that_is_gone_is_named(spawner):
    with pytest.raises(ExperimentError, match="/nowhere: No such file") as caught:
        await spawner.spawn(Command(("/bin/true",), {}, Path("/nowhere")), 1, Limits())
    assert caught.value.reason is Reason.SYSTEM_ERROR


@pytest.mark.parametrize("environment", [{"A": "x" * 200_000}, {"A": "\0"}, {"A=B": "x"}])
async def test_what_no_program_can_be_given_is_the_messages_failure(spawner, environment):
    with pytest.raises(InvalidMessageError):
        await start(spawner, "/bin/true", env=environment)


async def test_failures_leave_the_spawner_usable(spawner):
    for _ in range(3):
        with pytest.raises(EnvironmentFailedError):
            await start(spawner, "/nowhere/python")
    assert (await run(spawner, "print('fine')"))[0] == b"fine\n"


# Ends


async def test_a_script_that_obeys_is_given_its_time(spawner):
    script = (
        "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(7))\nprint(flush=True)\ntime.sleep(600)"
    )
    started = await start(spawner, *PYTHON, script)
    await started.line()
    assert (await started.process.stop(60)).code == 7
    os.close(started.reader)


async def test_a_script_that_ignores_sigterm_is_killed(spawner):
    script = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint(flush=True)\ntime.sleep(600)"
    started = await start(spawner, *PYTHON, script)
    await started.line()
    assert (await started.process.stop(0.2)).signal == signal.SIGKILL
    os.close(started.reader)


async def test_the_whole_tree_has_the_grace_not_only_the_first_process(spawner, tmp_path):
    saved = tmp_path / "saved"
    script = f"""
import os, signal, time
if os.fork() == 0:
    def save(*_):
        time.sleep(0.5)
        open({str(saved)!r}, "w").close()
        os._exit(0)
    signal.signal(15, save)
    print(flush=True)
    time.sleep(600)
time.sleep(600)
"""
    started = await start(spawner, *PYTHON, script)
    await started.line()
    end = await started.process.stop(60)
    os.close(started.reader)
    assert (end.signal, end.left_behind) == (signal.SIGTERM, 0)
    assert saved.exists()


async def test_a_stopped_process_can_still_obey(spawner):
    script = "import os, signal, sys\nsignal.signal(15, lambda *_: sys.exit(7))\nprint(flush=True)\nos.kill(os.getpid(), 19)"
    started = await start(spawner, *PYTHON, script)
    await started.line()
    await until(lambda: "T (stopped)" in Path(f"/proc/{started.process.pid}/status").read_text())
    assert (await started.process.stop(60)).code == 7
    os.close(started.reader)


async def test_stopping_twice_or_after_the_end_says_the_same(spawner):
    started = await start(spawner, *PYTHON, "import sys; sys.exit(5)")
    ends = [await started.process.wait(), await started.process.stop(60), await started.process.stop(0)]
    started.process.kill()
    os.close(started.reader)
    assert [end.code for end in ends] == [5, 5, 5]
    assert started.process.pids() == []


async def test_daemons_do_not_outlive_the_script(spawner):
    started = await start(spawner, *PYTHON, DAEMON + "daemon(); daemon(); print(flush=True); input()")
    _, end = await started.end()
    assert (end.code, end.left_behind) == (1, 2)  # input() finds /dev/null
    assert descendants(started.process.supervisor) == []


async def test_daemons_are_part_of_the_tree(spawner):
    started = await start(spawner, *PYTHON, DAEMON + "daemon(); print(flush=True); time.sleep(600)")
    await started.line()
    pids = started.process.pids()
    assert len(pids) == 2
    assert (await started.process.stop(60)).signal == signal.SIGTERM
    assert not any(map(alive, pids))
    os.close(started.reader)


async def test_trees_are_followed_on_kernels_that_do_not_list_children(spawner, monkeypatch):
    started = await start(spawner, *PYTHON, DAEMON + "daemon(); print(flush=True); time.sleep(600)")
    await started.line()
    listed = set(started.process.pids())
    monkeypatch.setattr(keeper, "_has_children_files", lambda: False)
    assert set(started.process.pids()) == listed
    assert len(listed) == 2
    os.close(started.reader)


async def test_a_helper_that_is_about_to_end_may_finish(spawner):
    shell = await start(
        spawner, "/bin/sh", "-c", "(sleep 0.2; echo tail) & echo head", env={"PATH": "/usr/bin:/bin"}
    )
    output, end = await shell.end()
    assert output == b"head\ntail\n"
    assert (end.code, end.left_behind) == (0, 0)


async def test_a_script_that_forks_in_a_loop_is_killed_with_all_of_it(spawner):
    script = """
import os, signal, time
signal.signal(15, signal.SIG_IGN)
print(flush=True)
for _ in range(6):
    if os.fork() == 0:
        os.setsid()
time.sleep(600)
"""
    started = await start(spawner, *PYTHON, script)
    await until(lambda: len(started.process.pids()) == 64)
    pids = started.process.pids()
    end = await started.process.stop(0.1)
    os.close(started.reader)
    assert end.signal == signal.SIGKILL
    assert not any(map(alive, pids))


async def test_a_process_that_flees_by_forking_is_caught(spawner):
    script = """
import os, time
print(flush=True)
if os.fork() == 0:
    os.setsid()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if os.fork():
            os._exit(0)
time.sleep(0.2)
"""
    _, end = await run(spawner, script)
    assert end.code == 0


async def test_a_script_that_closes_its_output_is_waited_for(spawner):
    script = "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(0.2)\nos._exit(4)"
    output, end = await run(spawner, script)
    assert (output, end.code) == (b"", 4)


async def test_binary_floods_end_up_bounded(spawner, tmp_path):
    (tmp_path / "output").mkdir()
    path = tmp_path / "output" / "output"
    script = "import os\nfor _ in range(320): os.write(1, os.urandom(65536))"
    reader, writer = os.pipe()
    with Output(path, 1_000_000, LineScanner(lambda _line: None)) as output:
        async with asyncio.TaskGroup() as group:
            process = await spawner.spawn(Command((*PYTHON, script), {}, Path("/")), writer, Limits())
            os.close(writer)
            group.create_task(output.drain(reader))
            assert (await process.wait()).code == 0
    assert 300_000 < path.stat().st_size <= 1_000_000
    assert b"bytes left out here" in path.read_bytes()


# Deaths on our side


RUNNER = """
import asyncio, os, sys
from pathlib import Path
from studio_runner.process import keeper
from studio_runner.process.base import Command
from studio_runner.process.limits import Limits
from studio_runner.process.spawn import Spawner

async def main():
    async with Spawner() as spawner:
        process = await spawner.spawn(Command(tuple(sys.argv[1:]), {}, Path("/")), 1, Limits())
        print(process.supervisor, process.pid, flush=True)
        await process.wait()

asyncio.run(main())
"""


async def test_when_the_runner_is_killed_everything_ends():
    script = (
        DAEMON
        + "import signal; signal.signal(15, signal.SIG_IGN); daemon(); print('up', flush=True); time.sleep(600)"
    )
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, *PYTHON, script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    lines = [await asyncio.to_thread(runner.stdout.readline) for _ in range(2)]
    assert b"up\n" in lines
    pids = descendants(runner.pid)
    assert len(pids) == 4  # server, supervisor, script, daemon
    runner.kill()
    runner.wait()
    await until(lambda: not any(map(alive, pids)))
    runner.stdout.close()


async def test_when_the_supervisor_is_killed_the_tree_is_gone_before_wait_says_so(spawner):
    started = await start(spawner, *PYTHON, DAEMON + "daemon(); print(flush=True); time.sleep(600)")
    await started.line()
    pids = started.process.pids()
    assert len(pids) == 2
    os.kill(started.process.supervisor, signal.SIGKILL)
    with pytest.raises(ExperimentError, match="was killed") as caught:
        await started.process.wait()
    assert caught.value.reason is Reason.SYSTEM_ERROR
    assert not any(map(alive, pids))
    os.close(started.reader)
    assert (await run(spawner, "print('next')"))[0] == b"next\n"


async def test_when_the_fork_server_is_killed_experiments_go_on_and_new_ones_start(spawner):
    first = await start(spawner, *PYTHON, "print(flush=True)\nimport time; time.sleep(1)\nprint('done')")
    server = server_of(first.process)
    os.kill(server, signal.SIGKILL)
    await until(lambda: not alive(server))
    second = await start(spawner, *PYTHON, "print('second')")
    assert (await second.end())[0] == b"second\n"
    output, end = await first.end()
    assert (output, end.code) == (b"\ndone\n", 0)


async def test_a_terminals_interrupt_does_not_reach_experiments(spawner):
    started = await start(spawner, "/bin/sleep", "600")
    for pid in (server_of(started.process), started.process.supervisor, started.process.pid):
        assert os.getsid(pid) != os.getsid(0)
    os.close(started.reader)


async def test_leaving_the_context_leaves_no_process():
    async with Spawner() as spawner:
        started = [
            await start(spawner, *PYTHON, DAEMON + "daemon(); print(flush=True); time.sleep(600)") for _ in range(3)
        ]
        for one in started:
            await one.line()
        pids = [pid for one in started for pid in (*one.process.pids(), one.process.supervisor)]
        server = server_of(started[0].process)
    assert not any(map(alive, [*pids, server]))
    assert [one.process.ended for one in started] == [True] * 3
    for one in started:
        os.close(one.reader)


async def test_a_cancelled_start_leaves_no_process(tmp_path):
    async with Spawner() as spawner:
        for delay in range(12):
            mark = tmp_path / str(delay)
            task = asyncio.create_task(start(spawner, "/bin/sh", "-c", f"echo $$ > {mark}; exec sleep 600"))
            await asyncio.sleep(delay / 2000)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                os.close(task.result().reader)
    pids = [int(mark.read_text()) for mark in tmp_path.iterdir() if mark.read_text()]
    assert not any(map(alive, pids))


async def test_a_cancelled_wait_does_not_touch_the_process(spawner):
    started = await start(spawner, *PYTHON, "print(flush=True)\nimport time; time.sleep(0.5)")
    waiting = asyncio.create_task(started.process.wait())
    await started.line()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert (await started.process.wait()).code == 0
    os.close(started.reader)


async def test_two_hundred_starts_leave_nothing_behind(spawner):
    servers = set()

    async def some(count: int) -> None:
        for _ in range(count):
            started = await start(spawner, "/bin/true")
            servers.add(server_of(started.process))
            assert (await started.process.wait()).code == 0
            os.close(started.reader)

    async def three_at_a_time(count: int) -> tuple[list[int], list[int]]:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(some(count))
        (server,) = servers
        ours = [server, *descendants(server)]  # other tests have servers of their own, which come and go
        return ours, [len(os.listdir(f"/proc/{pid}/fd")) for pid in (os.getpid(), *ours)]

    before = await three_at_a_time(3)
    assert await three_at_a_time(70) == before
    assert all(map(alive, before[0]))


async def test_a_supervisor_that_was_killed_while_idle_is_replaced(spawner):
    first = await start(spawner, "/bin/true")
    assert (await first.end())[1].code == 0
    os.kill(first.process.supervisor, signal.SIGKILL)
    second = await start(spawner, "/bin/true")
    assert (await second.end())[1].code == 0
    assert second.process.supervisor != first.process.supervisor


async def test_one_experiment_does_not_show_in_the_figures_of_the_next(spawner):
    _, large = await run(spawner, "block = b'x' * (100 << 20)\nfor number in range(3_000_000): pass")
    _, small = await run(spawner, "pass")
    assert small.peak_memory < 50 << 20 < 100 << 20 < large.peak_memory
    assert small.cpu_seconds < large.cpu_seconds


async def test_an_order_that_comes_too_late_does_not_meet_the_next_experiment(spawner):
    for _ in range(30):
        started = await start(spawner, "/bin/true")
        await asyncio.to_thread(os.read, started.reader, 1)  # it has ended, and the loop has not heard of it
        started.process.kill()
        assert (await started.end())[1].code == 0


# Watching and sweeping


async def test_memory_is_watched_over_the_whole_tree(spawner):
    script = "import os, time\nos.fork()\nblock = bytearray(os.urandom(1 << 20) * 60)\nprint(flush=True)\ntime.sleep(600)"
    started = await start(spawner, *PYTHON, script)
    async with TreeWatch() as watch, asyncio.timeout(60):
        found = await watch.excess(started.process, 100 << 20, 0)
    assert found.memory > 100 << 20
    await started.process.stop(0)
    os.close(started.reader)


async def test_a_tree_with_too_many_processes_and_threads_is_noticed_and_its_neighbour_is_not(spawner):
    script = """
import _thread, os, time
for _ in range({processes}):
    if os.fork() == 0:
        break
else:
    for _ in range({threads}):
        _thread.start_new_thread(time.sleep, (600,))
    print(flush=True)
time.sleep(600)
"""
    good = await start(spawner, *PYTHON, script.format(processes=5, threads=4))
    await good.line()
    async with TreeWatch() as watch, asyncio.timeout(60):
        others = asyncio.create_task(watch.excess(good.process, 0, 10))
        many = await start(spawner, *PYTHON, script.format(processes=5, threads=5))
        assert (await watch.excess(many.process, 0, 10)).processes == 11
        await asyncio.sleep(0.2)
        assert not others.done()
        others.cancel()
    for started in (good, many):
        await started.process.stop(0)
        os.close(started.reader)


@pytest.mark.parametrize("escape", ["", "os.setsid()"])
async def test_a_fork_bomb_is_ended_without_control_groups(spawner, escape):
    """As fast as a real one, but it gives up at 1024 processes: this machine has other work."""
    script = f"""
import os, time
for _ in range(10):
    if os.fork() == 0:
        {escape or "pass"}
time.sleep(600)
"""
    started = await start(spawner, *PYTHON, script)
    async with TreeWatch() as watch, asyncio.timeout(60):
        found = await watch.excess(started.process, 0, 200)
        started.process.kill()
        _, end = await started.end()
    assert found.processes > 200
    assert end.left_behind > 100
    assert started.process.pids() == []


async def test_memory_that_is_shared_counts_once(spawner):
    script = """
import os, time
block = bytearray(b"x" * (64 << 20))
for _ in range(4):
    if os.fork() == 0:
        break
else:
    print(flush=True)
time.sleep(600)
"""
    started = await start(spawner, *PYTHON, script)
    await started.line()
    limit = 128 << 20
    assert sum(sample([pid]).processes for pid in started.process.pids()) == 5
    assert memory(started.process.pids(), limit) < limit
    assert sample(started.process.pids()).rss < limit
    os.close(started.reader)


async def test_what_a_dead_attempt_left_is_found_by_its_tag():
    def leave(attempt: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*PYTHON, DAEMON + "daemon(); print(flush=True); time.sleep(600)"],
            stdout=subprocess.PIPE,
            env={"STUDIO_RUNNER_ATTEMPT": attempt},
        )

    dead, living = leave("host/abc.1"), leave("host/abc.10")
    dead.stdout.read(1)
    living.stdout.read(1)
    try:
        assert await asyncio.to_thread(sweep, {"host/abc.1"}) >= 1
        assert dead.wait() == -signal.SIGKILL
        assert living.poll() is None
        assert sweep({"host/abc.1"}) == 0
    finally:
        await asyncio.to_thread(sweep, {"host/abc.10"})
        living.wait()
        dead.stdout.close()
        living.stdout.close()
