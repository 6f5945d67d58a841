"""A packer that knows the future: every arrival and every true duration, nothing is stopped once it began.

It tries several orders. In each, one job after the other gets the earliest time after its arrival at which it fits
beside those that have theirs already; the best of all schedules counts. The best possible one nobody can compute,
but no schedule is shorter than `bound`.
"""

import bisect
import random
from collections.abc import Callable, Sequence

from bench.workloads import CARDS, MACHINE, Job

Vector = tuple[int, int, int, int]
TRIES = 12
"""Orders that are the best one, shaken."""


def amounts(job: Job) -> Vector:
    share = job.need.share
    return share.cores, share.memory, share.disk, job.need.gpus.cards


WHOLE: Vector = (MACHINE.cores, MACHINE.memory, MACHINE.disk, CARDS)

ORDERS: dict[str, Callable[[Job], tuple[float, ...]]] = {
    "arrival": lambda job: (job.submitted,),
    "largest area first": lambda job: (-job.area,),
    "longest first": lambda job: (-job.duration,),
    "widest first": lambda job: (-job.width, -job.duration),
    "widest last": lambda job: (job.width, -job.duration),
    "shortest first": lambda job: (job.duration,),
    "earliest latest end": lambda job: (job.submitted + job.duration,),
    "arrival less area": lambda job: (job.submitted - 4 * job.area,),
}


class Profile:
    """What is free from each point in time on."""

    def __init__(self) -> None:
        self._times = [0.0]
        self._free: list[Vector] = [WHOLE]

    def place(self, wanted: Vector, arrival: float, duration: float) -> float:
        """Book the earliest start."""
        start = self._earliest(wanted, arrival, duration)
        first, last = self._cut(start), self._cut(start + duration)
        a, b, c, d = wanted
        for index in range(first, last):
            w, x, y, z = self._free[index]
            self._free[index] = (w - a, x - b, y - c, z - d)
        return start

    def _earliest(self, wanted: Vector, arrival: float, duration: float) -> float:
        times, free = self._times, self._free
        a, b, c, d = wanted
        start, index = arrival, bisect.bisect_right(times, arrival) - 1
        while index < len(times) and times[index] < start + duration:
            w, x, y, z = free[index]
            index += 1
            if a > w or b > x or c > y or d > z:
                start = times[index]  # the last piece is all free, so there is a next one
        return start

    def _cut(self, at: float) -> int:
        """The index of the piece that begins at this time."""
        index = bisect.bisect_left(self._times, at)
        if index == len(self._times) or self._times[index] != at:
            self._times.insert(index, at)
            self._free.insert(index, self._free[index - 1])
        return index


def makespan(order: Sequence[Job]) -> float:
    profile = Profile()
    return max(profile.place(amounts(job), job.submitted, job.duration) + job.duration for job in order)


def packed(jobs: Sequence[Job]) -> float:
    """When everything is over in the best schedule that is found; seconds."""
    orders = [sorted(jobs, key=key) for key in ORDERS.values()]
    ends = [makespan(order) for order in orders]
    best = min(ends)
    order = orders[ends.index(best)]
    draw = random.Random(1)
    for _ in range(TRIES):
        shaken = _shaken(order, draw)
        if (end := makespan(shaken)) < best:
            best, order = end, shaken
    return best


def _shaken(order: Sequence[Job], draw: random.Random) -> list[Job]:
    places = {id(job): place + draw.gauss(0, len(order) / 10) for place, job in enumerate(order)}
    return sorted(order, key=lambda job: places[id(job)])


def bound(jobs: Sequence[Job]) -> float:
    """No schedule is over sooner: the work that arrives after any time takes the whole machine so long, and each
    job its own time."""
    latest = max(job.submitted + job.duration for job in jobs)
    rest = [0.0] * len(WHOLE)
    for job in sorted(jobs, key=lambda job: -job.submitted):
        for index, amount in enumerate(amounts(job)):
            rest[index] += amount / WHOLE[index] * job.duration
        latest = max(latest, job.submitted + max(rest))
    return latest
