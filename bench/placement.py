"""How well the machine is filled: the runner's own placement on a virtual clock, beside a packer that knows the
future.

`Placement` and `Ledger` are the real ones; the clock, the queue and the experiments are simulated. Utilisation is
the work done over what the machine could have done until everything was over, so of two schedules of the same
workload the shorter one has the higher. `python -m bench.placement [FILE]` prints the table of the documentation,
or that of a recorded workload.
"""

import heapq
import itertools
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from bench.cards import Card, WholeCards
from bench.packer import bound, packed
from bench.result import Result
from bench.workloads import CARDS, MACHINE, MIXES, Job, need, recorded
from studio_runner.machine.inventory import Capacity
from studio_runner.machine.ledger import Ledger, Reservation
from studio_runner.machine.lineup import Candidate
from studio_runner.machine.placement import Placement

JOBS = 2000
PATIENCE = 7200.0
WIDE = 0.5
"""An experiment of at least this share of the machine is a big one."""
TARGET = 0.95


class Greedy:
    """What there was before: whatever fits is taken."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def admits(self, candidate: Candidate, now: float) -> bool:  # noqa: ARG002
        return self._ledger.fits(candidate.need)

    def took(self, candidate: Candidate) -> None:
        pass

    def resume(self, now: float) -> None:
        pass


@dataclass(frozen=True)
class Outcome:
    """When everything was over, and how long anybody, and any big one, waited; seconds."""

    makespan: float
    longest_wait: float
    longest_big_wait: float


class Simulation:
    """One workload under one policy. At every arrival and every end all that wait are offered, the oldest first."""

    def __init__(self, jobs: Sequence[Job], ledger: Ledger, policy: Placement | Greedy) -> None:
        self._ledger, self._policy = ledger, policy
        self._jobs = sorted(jobs, key=lambda job: job.submitted)
        self._waiting: list[tuple[Job, Candidate]] = []
        self._running: list[tuple[float, int, Reservation]] = []
        self._serials = itertools.count()
        self._now = 0.0
        self._waits: list[tuple[float, Job]] = []

    def run(self) -> Outcome:
        arrivals = list(reversed(self._jobs))
        while arrivals or self._running:
            comes = arrivals[-1].submitted if arrivals else inf
            ends = self._running[0][0] if self._running else inf
            self._now = min(comes, ends)
            while arrivals and arrivals[-1].submitted <= self._now:
                self._arrive(arrivals.pop())
            while self._running and self._running[0][0] <= self._now:
                heapq.heappop(self._running)[2].release()
            self._offer()
        assert not self._waiting, "starved"
        waits = [wait for wait, _ in self._waits]
        big = [wait for wait, job in self._waits if job.width >= WIDE]
        return Outcome(self._now, max(waits), max(big, default=0.0))

    def _arrive(self, job: Job) -> None:
        name = str(next(self._serials))
        self._waiting.append((job, Candidate("q", name, name, job.need, job.limit)))

    def _offer(self) -> None:
        self._policy.resume(self._now)
        seen = -1
        while seen != self._ledger.releases:
            seen = self._ledger.releases
            self._waiting = [pair for pair in self._waiting if not self._begins(*pair)]

    def _begins(self, job: Job, candidate: Candidate) -> bool:
        if not self._ledger.free.cores or not self._policy.admits(candidate, self._now):
            return False
        reservation = self._ledger.reserve(job.need, candidate.end(self._now))
        assert reservation, "more than there is"
        self._policy.took(candidate)
        self._waits.append((self._now - job.submitted, job))
        heapq.heappush(self._running, (self._now + job.duration, next(self._serials), reservation))
        return True


def fresh_ledger() -> Ledger:
    return Ledger(MACHINE, WholeCards(Card(1, 80, f"card-{number}") for number in range(CARDS)))


@dataclass(frozen=True)
class Comparison:
    """One workload: by this policy, by the one before, packed by one who knows the future, and the bound."""

    name: str
    placed: Outcome
    greedy: Outcome
    packed: float
    bound: float

    @property
    def ratio(self) -> float:
        """Utilisation beside the packer's."""
        return self.packed / self.placed.makespan


def compared(name: str, jobs: Sequence[Job]) -> Comparison:
    ledger = fresh_ledger()
    placed = Simulation(jobs, ledger, Placement(ledger, PATIENCE)).run()
    ledger = fresh_ledger()
    greedy = Simulation(jobs, ledger, Greedy(ledger)).run()
    return Comparison(name, placed, greedy, packed(jobs), bound(jobs))


def decisions() -> Result:
    """The dearest case: 200 run, 16 cards, 9,000 wait, and before each decision something changed."""
    ledger = Ledger(Capacity(300, 10**12, 10**13), WholeCards(Card(1, 80, f"card-{n}") for n in range(16)))
    placement = Placement(ledger, PATIENCE)
    for number in range(200):
        assert ledger.reserve(need(1, 1, 1 if number < 16 else 0), until=1000.0 + number * 7 % 97)
    big = Candidate("q", "big", "big", need(300, 0, 16), 100.0)
    waiting = [Candidate("q", f"{n}", n, need(1, 1, 1 if n % 4 == 0 else 0), 5000.0) for n in range(9000)]
    assert not any(placement.admits(one, 0.0) for one in (big, *waiting))
    times = []
    for one in waiting[:2000]:
        ledger.changed()
        begun = time.perf_counter()
        placement.admits(one, 1.0)
        times.append(1000 * (time.perf_counter() - begun))
    middle = statistics.median(times)
    detail = {"minimum": min(times), "maximum": max(times), "runs": len(times)}
    name = "placement decision, 200 run, 9,000 wait, 16 cards"
    return Result(name, middle, "ms", target="under 1 ms", met=middle < 1, detail=detail)


def run(scale: float) -> Iterator[Result]:
    yield decisions()
    for mix in MIXES:
        one = compared(mix.name, mix.jobs(max(60, int(JOBS * scale))))
        yield Result(
            f"placement, {mix.name}: utilisation",
            100 * one.bound / one.placed.makespan,
            "%",
            100 * one.bound / one.packed,
            "clairvoyant packer",
            one.ratio,
            f"at least {TARGET:g}",
            one.ratio >= TARGET,
        )


def table(comparisons: Sequence[Comparison]) -> str:
    lines = [
        "| workload | beside the packer | beside the bound | before | longest wait of a big one | before |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for one in comparisons:
        cells = (
            f"{100 * one.ratio:.1f} %",
            f"{100 * one.bound / one.placed.makespan:.1f} %",
            f"{100 * one.packed / one.greedy.makespan:.1f} %",
            f"{one.placed.longest_big_wait / 3600:.1f} h",
            f"{one.greedy.longest_big_wait / 3600:.1f} h",
        )
        lines.append(f"| {one.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    if len(sys.argv) > 1:
        path = Path(sys.argv[1])
        print(table([compared(path.name, recorded(path))]))
        return
    print(table([compared(mix.name, mix.jobs(JOBS)) for mix in MIXES]))


if __name__ == "__main__":
    main()
