"""Several runner processes on one queue root, some of which come to grief."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from studio_runner.queues.layout import RootPlace
from studio_runner.queues.local import LocalBroker, LocalQueueOptions

QUEUE = "local_shared"
LEASE = 3.0
LONG = 600.0
"""A lease for tests that are not about it: a machine that stands still for a moment shall not look like a death."""
PATIENCE = 60.0

RUNNER = """
import asyncio, json, os, sys
from pathlib import Path
from studio_runner.errors import LeaseLostError
from studio_runner.queues.local import LocalBroker, LocalQueueOptions

ROOT, QUEUE, LEASE, MODE = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4]


class Ticket:
    def __init__(self, gate):
        self.gate = gate

    def release(self):
        self.gate.places += 1
        self.gate.releases += 1
        self.gate.changed.set()


class Gate:
    '''Room for four.'''

    def __init__(self):
        self.places, self.releases, self.changed = 4, 0, asyncio.Event()

    def admit(self, queue, body):
        if not self.places:
            return None
        self.places -= 1
        return Ticket(self)

    def awaits(self, queue, body):
        return False

    async def opened(self):
        while not self.places:
            await self.released(self.releases)

    async def released(self, seen):
        while self.releases == seen:
            self.changed.clear()
            await self.changed.wait()


def say(what, delivery):
    print(json.dumps([what, json.loads(delivery.body)["number"], delivery.attempts]), flush=True)


async def work(delivery):
    '''What an attempt does: a little work, then settle; when it is told to wait, not before it may.'''
    while not os.path.exists(ROOT / "go") and MODE == "wait":
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.002)
    await delivery.ack()
    say("done", delivery)
    delivery.ticket.release()


async def hold(delivery):
    '''An experiment that runs until somebody takes it away.'''
    while True:
        await asyncio.sleep(LEASE / 10)
        try:
            await delivery.extend()
        except LeaseLostError:
            say("lost", delivery)
            try:
                await delivery.ack()
            except LeaseLostError:
                say("lost when settling", delivery)
            return


async def main():
    async with LocalBroker(ROOT, LocalQueueOptions(lease=LEASE, poll=0.2)) as broker, asyncio.TaskGroup() as group:
        async for delivery in broker.consume(QUEUE, Gate()):
            say("taken", delivery)
            group.create_task(hold(delivery) if MODE == "hold" else work(delivery))


asyncio.run(main())
"""


class Runner:
    """A runner process and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def says(self) -> list:
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            return json.loads(await self.process.stdout.readline())

    def signal(self, number: int) -> None:
        self.process.send_signal(number)


@asynccontextmanager
async def runner(root: Path, mode: str, lease: float = LONG) -> AsyncIterator[Runner]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUNNER, str(root), QUEUE, str(lease), mode, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield Runner(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "queue"


async def publish(root: Path, count: int) -> None:
    async with LocalBroker(root, LocalQueueOptions()) as broker:
        for number in range(count):
            await broker.publish(QUEUE, json.dumps({"number": number}).encode())


async def both_look(root: Path) -> None:
    """Until two runners have seen each other."""
    async with asyncio.timeout(PATIENCE):
        while len([name for name in os.listdir(RootPlace(root).runners) if name[0] != "."]) < 2:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.5)


async def test_five_hundred_messages_over_three_runners_each_once(root):
    await publish(root, 250)
    done: Counter[int] = Counter()
    by_runner: Counter[int] = Counter()

    async def listen(index: int, process: Runner) -> None:
        while True:
            what, number, attempts = await process.says()
            assert attempts == 0
            if what == "done":
                done[number] += 1
                by_runner[index] += 1

    async with AsyncExitStack() as stack:
        runners = [await stack.enter_async_context(runner(root, "wait")) for _ in range(3)]
        listeners = [asyncio.ensure_future(listen(index, process)) for index, process in enumerate(runners)]
        async with LocalBroker(root, LocalQueueOptions()) as broker:
            async with asyncio.timeout(PATIENCE):
                while (await broker.status(QUEUE)).claimed < 3 * 4:
                    await asyncio.sleep(0.02)
            (root / "go").touch()
            for number in range(250, 500):
                await broker.publish(QUEUE, json.dumps({"number": number}).encode())
            async with asyncio.timeout(PATIENCE):
                while len(done) < 500:
                    await asyncio.sleep(0.02)
            status = await broker.status(QUEUE)
        for listener in listeners:
            listener.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
    assert set(done.values()) == {1}
    assert len(by_runner) == 3, "every runner gets its share"
    assert (status.waiting, status.claimed, status.delayed, status.dead) == (0, 0, 0, 0)


async def test_what_a_killed_runner_held_is_taken_over_at_once(root):
    await publish(root, 3)
    async with runner(root, "hold") as victim:
        held = sorted([(await victim.says())[1] for _ in range(3)])
        async with runner(root, "work") as heir:
            await both_look(root)
            victim.signal(signal.SIGKILL)
            await victim.process.wait()
            said = [await heir.says() for _ in range(6)]
    assert sorted(number for what, number, _ in said if what == "done") == held
    assert {attempts for _, _, attempts in said} == {1}, "a death is charged"


async def test_nothing_of_a_killed_runner_is_left(root):
    await publish(root, 1)
    async with runner(root, "hold") as victim:
        await victim.says()
        victim.signal(signal.SIGKILL)
        await victim.process.wait()
    async with runner(root, "work") as heir:
        await heir.says()
        await heir.says()
        place = RootPlace(root)
        async with asyncio.timeout(PATIENCE):
            while len(os.listdir(place.runners)) != 1:
                await asyncio.sleep(0.02)
        assert os.listdir(place.queue(QUEUE).claimed) == []


async def test_a_runner_that_restarts_takes_up_what_its_killed_self_held(root):
    await publish(root, 1)
    async with runner(root, "hold") as victim:
        await victim.says()
        victim.signal(signal.SIGKILL)
        await victim.process.wait()
    async with runner(root, "work") as again:
        assert await again.says() == ["taken", 0, 1]
        assert await again.says() == ["done", 0, 1]


async def test_a_runner_stopped_for_longer_than_the_lease_learns_that_it_lost(root):
    await publish(root, 1)
    async with runner(root, "hold", LEASE) as sleeper, runner(root, "hold", LEASE) as heir:
        first, second = asyncio.ensure_future(sleeper.says()), asyncio.ensure_future(heir.says())
        await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
        holder, other, pending = (sleeper, heir, second) if first.done() else (heir, sleeper, first)
        holder.signal(signal.SIGSTOP)
        assert await pending == ["taken", 0, 1]
        holder.signal(signal.SIGCONT)
        assert await holder.says() == ["lost", 0, 0]
        assert await holder.says() == ["lost when settling", 0, 0]
        # The heir keeps it: the sleeper's awakening took nothing from it.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(LEASE):
                await other.says()


async def test_a_runner_stopped_for_less_than_the_lease_keeps_what_it_has(root):
    await publish(root, 1)
    async with runner(root, "hold", LEASE) as sleeper:
        assert await sleeper.says() == ["taken", 0, 0]
        async with runner(root, "work", LEASE) as other:
            await both_look(root)
            sleeper.signal(signal.SIGSTOP)
            await asyncio.sleep(LEASE / 4)
            sleeper.signal(signal.SIGCONT)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(LEASE * 1.5):
                    await other.says()


async def test_runners_that_were_all_stopped_together_keep_what_they_have(root):
    """As when the machine sleeps, or a terminal's job is suspended: nobody was out of touch for longer than others."""
    await publish(root, 1)
    async with runner(root, "hold", LEASE) as holder:
        assert await holder.says() == ["taken", 0, 0]
        async with runner(root, "work", LEASE) as observer:
            await both_look(root)
            for process in (holder, observer):
                process.signal(signal.SIGSTOP)
            await asyncio.sleep(LEASE * 1.5)
            observer.signal(signal.SIGCONT)
            await asyncio.sleep(0.1)
            holder.signal(signal.SIGCONT)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(LEASE * 1.2):
                    await observer.says()
