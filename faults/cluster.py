"""A run of the suite: a site, runners and a storm, from the first message to the verdicts."""

import asyncio
import contextlib
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.audit import Audit, Verdict
from faults.experiment import WORKSPACE, Experiment, experiments, request, workspace
from faults.plan import Strike, Target, plan
from faults.runners import Place, Runner, stragglers
from faults.site import Site
from faults.storm import Storm
from faults.watch import Watch

LEASE, GRACE, DELIVERIES = "5s", "3s", 25
SMALL_DISK = "200m"
PUBLISHED_IN = 0.7
"""Part of the storm in which messages arrive."""
PUBLISH_AGAIN = 0.5
BURST = 20
LOOK = 1.0
QUIET = 3.0
"""Seconds for second thoughts, after everything is over and before it is judged."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wish:
    """What to run. Durations are seconds."""

    experiments: int
    runners: int
    seed: int
    storm: float
    every: float
    """Between two troubles, on average."""
    patience: float


@dataclass(frozen=True)
class Account:
    """What came of it. `unexpected` are runners that ended by themselves, `remaining` messages, `leftovers`
    directories and processes of attempts."""

    verdicts: Sequence[Verdict]
    struck: Mapping[str, int]
    unexpected: Sequence[str]
    remaining: Sequence[str]
    leftovers: Sequence[str]
    published_again: Sequence[str]
    seconds: float


class Cluster:
    """Everything of one run; `run` it once."""

    def __init__(self, site: Site, root: Path, wish: Wish, say: Say) -> None:
        self._site, self._root, self._wish, self._say = site, root, wish, say
        self._logs = root / "executions"
        self._experiments = list(experiments(wish.experiments, site.queues, wish.seed))
        self._published_again: list[str] = []

    async def run(self) -> Account:
        began = time.monotonic()
        self._logs.mkdir()
        self._site.objects.write(WORKSPACE, workspace())
        watch = Watch(self._site.objects, self._experiments)
        with self._disks() as disks:
            async with self._running() as runners:
                storm = Storm(self._root, runners, self._site.servers, self._site.links, self._say)
                await self._through(storm, watch, self._plan(disks))
                for runner in runners.values():
                    await runner.serving()
            return await self._account(storm, watch, runners, began)

    async def _through(self, storm: Storm, watch: Watch, strikes: Sequence[Strike]) -> None:
        calm = asyncio.Event()
        watching = asyncio.create_task(watch.watch(), name="watch")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(storm.rage(strikes, calm), name="storm")
                group.create_task(self._publish(), name="publish")
                group.create_task(self._until_over(watch, calm), name="wait")
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        while not await asyncio.to_thread(watch.look):
            await asyncio.sleep(LOOK)

    async def _until_over(self, watch: Watch, calm: asyncio.Event) -> None:
        """Until every experiment has ended; `patience` counts from the end of the storm."""
        began = time.monotonic()
        told = 0
        while left := [one for one in self._experiments if not watch.over(one)]:
            elapsed = time.monotonic() - began
            if elapsed > self._wish.storm + self._wish.patience:
                self._say(f"{len(left)} experiments are not over after {elapsed:.0f} s; waiting no longer")
                break
            if elapsed // 15 > told:
                told = int(elapsed // 15)
                self._say(
                    f"{elapsed:4.0f} s: {len(self._experiments) - len(left)} of {len(self._experiments)} over"
                )
            await asyncio.sleep(LOOK)
        calm.set()
        await asyncio.sleep(QUIET)

    async def _publish(self) -> None:
        """In bursts, so that runners are busy and idle in turns; again when a message may not have arrived."""
        dice, addresses = random.Random(f"publish {self._wish.seed}"), self._site.addresses()
        mean = self._wish.storm * PUBLISHED_IN / len(self._experiments)
        for number, experiment in enumerate(self._experiments):
            if number % BURST == 0:
                await asyncio.sleep(dice.uniform(0, 2 * mean * BURST))
            body = request(experiment, addresses, self._logs / experiment.key)
            while not await self._arrived(experiment, body):
                await asyncio.sleep(PUBLISH_AGAIN)

    async def _arrived(self, experiment: Experiment, body: bytes) -> bool:
        try:
            await asyncio.to_thread(self._site.publish, experiment.queue, body)
        except ConnectionRefusedError:
            return False
        except OSError as error:
            refused = isinstance(getattr(error, "reason", None), ConnectionRefusedError)
            if not refused:
                self._published_again.append(experiment.key)
            return False
        return True

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[Mapping[str, Runner]]:
        """The runners, kept running; drained at the end."""
        runners = {self._name(number): self._runner(number) for number in range(self._wish.runners)}
        async with asyncio.TaskGroup() as group:
            for runner in runners.values():
                runner.start()
            keepers = [group.create_task(runner.keep(), name=runner.name) for runner in runners.values()]
            try:
                yield runners
            finally:
                for keeper in keepers:
                    keeper.cancel()
                await asyncio.gather(*(runner.drain() for runner in runners.values()))

    def _runner(self, number: int) -> Runner:
        options = (
            *("--http-address", "", "--lease", LEASE, "--grace", GRACE, "--deliveries", str(DELIVERIES)),
            *("--storage-patience", "20s", *self._site.options(number)),
        )
        home = self._root / self._name(number)
        return Runner(self._name(number), Place(home, home / "runner", self._root / "cache"), options)

    @staticmethod
    def _name(number: int) -> str:
        return f"runner-{number}"

    def _plan(self, disks: Sequence[str]) -> Sequence[Strike]:
        return plan(self._wish.seed, self._wish.storm, self._targets(disks), self._wish.every)

    def _targets(self, disks: Sequence[str]) -> Mapping[Target, Sequence[str]]:
        return {
            Target.RUNNER: [self._name(number) for number in range(self._wish.runners)],
            Target.SCRIPT: ["any"],
            Target.BROKER: [name for name in self._site.servers if name == "broker"],
            Target.STORE: [name for name in self._site.servers if name == "store"],
            Target.LINK: list(self._site.links),
            Target.DISK: disks,
        }

    @contextlib.contextmanager
    def _disks(self) -> Iterator[Sequence[str]]:
        """The last runner has a small disk of its own, where this machine lets us mount one."""
        name = self._name(self._wish.runners - 1)
        working = self._root / name / "runner"
        working.mkdir(parents=True)
        if not _mounted(working):
            self._say("no small disk can be mounted here (root only): disks do not get full")
            yield []
            return
        try:
            yield [name]
        finally:
            subprocess.run(["umount", "--lazy", str(working)], check=True)

    async def _account(self, storm: Storm, watch: Watch, runners: Mapping[str, Runner], began: float) -> Account:
        audit = Audit(self._site.objects, watch, self._logs, storm.killed_scripts)
        judged = [await asyncio.to_thread(audit.judge, experiment) for experiment in self._experiments]
        return Account(
            verdicts=judged,
            struck=Counter(storm.struck),
            unexpected=[f"{runner.name} {what}" for runner in runners.values() for what in runner.unexpected],
            remaining=list(await asyncio.to_thread(lambda: list(self._site.remaining()))),
            leftovers=self._leftovers(runners),
            published_again=self._published_again,
            seconds=time.monotonic() - began,
        )

    def _leftovers(self, runners: Mapping[str, Runner]) -> Sequence[str]:
        """Ended here, too: nothing that a run started outlives it."""
        places = [runner.place.working / "experiments" for runner in runners.values()]
        found = [str(path) for place in places if place.is_dir() for path in place.iterdir()]
        for process in stragglers(self._root):
            found.append(f"process {process.pid}")
            process.kill()
        return found


def _mounted(directory: Path) -> bool:
    if os.geteuid() != 0:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "faults", str(directory)]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0
