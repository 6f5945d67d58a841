"""The messages that were looked at and left: who came first, and whose turn it is."""

import itertools
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from math import inf

from studio_runner.machine.need import Need

REMEMBERED = 10_000
"""Messages that are known at one time; further ones are known when there is room for them."""


@dataclass(frozen=True)
class Candidate:
    """A message as placement sees it. `mark` tells it from the others of its queue.

    `limit`: seconds that it holds its room at most; `expires`: when it gives that back in any case. Infinite when
    nobody knows.
    """

    queue: str
    key: str
    mark: Hashable
    need: Need
    limit: float = inf
    expires: float = inf

    @property
    def name(self) -> tuple[str, Hashable]:
        """What tells it from every other."""
        return self.queue, self.mark

    def end(self, now: float) -> float:
        """When its room is free again at the latest, if it is taken now."""
        return min(now + self.limit, self.expires)


@dataclass(eq=False)
class Left:
    """A candidate that was left. `serial` grows in the order of first offers; `seen`: when it was offered last, and
    `releases`: how often something had been given back by then.

    The rest is kept when it is waited for: `since` when, how often another was left for its sake (`made_way`), and
    the time by which it begins, once that is known (`promise`).
    """

    candidate: Candidate
    serial: int
    seen: float
    releases: int = 0
    since: float | None = None
    made_way: int = 0
    promise: float = inf


class Lineup:
    """By queue, in the order of first offers. A queue has its turn when one of its messages that was waited for
    begins: so a long queue does not keep the others waiting."""

    def __init__(self) -> None:
        self._queues: dict[str, OrderedDict[Hashable, Left]] = {}
        self._turns: dict[str, int] = {}
        self._serials = itertools.count()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def find(self, candidate: Candidate) -> Left | None:
        queue = self._queues.get(candidate.queue)
        return queue.get(candidate.mark) if queue else None

    def note(self, candidate: Candidate, now: float, unseen: float) -> Left:
        """It was offered and is left. Those that were not offered since `unseen` make room when there is none."""
        left = self.find(candidate)
        if left is None:
            left = Left(candidate, next(self._serials), now)
            if self._count >= REMEMBERED:
                self._sweep(unseen)
            if self._count < REMEMBERED:
                self._queues.setdefault(candidate.queue, OrderedDict())[candidate.mark] = left
                self._count += 1
        left.seen = now
        return left

    def drop(self, candidate: Candidate) -> None:
        """It was taken, or is gone."""
        queue = self._queues.get(candidate.queue)
        if queue and queue.pop(candidate.mark, None):
            self._count -= 1
            if not queue:
                del self._queues[candidate.queue]

    def served(self, queue: str) -> None:
        """The queue had its turn."""
        self._turns[queue] = next(self._serials)

    def forget(self, queue: str) -> None:
        """The queue is gone."""
        self._count -= len(self._queues.pop(queue, ()))
        self._turns.pop(queue, None)

    def in_turn(self) -> Iterator[Left]:
        """All of them: queue by queue, the one first that had its turn longest ago; in a queue, the first first."""
        for queue in sorted(self._queues, key=lambda name: self._turns.get(name, -1)):
            yield from list(self._queues[queue].values())

    def _sweep(self, unseen: float) -> None:
        for left in list(self.in_turn()):
            if left.seen < unseen:
                self.drop(left.candidate)
