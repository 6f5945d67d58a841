"""From bytes on a queue to a reserved place on this machine: read, then admit.

A message is looked at before it is taken. What cannot be read is admitted without a reservation, so that the
attempt can set it aside; what can never fit here is left to other runners and said once.
"""

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from studio_runner.errors import InvalidMessageError
from studio_runner.machine.inventory import Capacity
from studio_runner.machine.ledger import Ledger, Reservation
from studio_runner.machine.need import NO_GPUS, NO_NEED, GpuNeed, Need
from studio_runner.messages.request import Request, parse_request

log = logging.getLogger(__name__)

LOOK_FOR_ROOM = 1.0
"""Seconds between two looks at a full disk."""

REMEMBERED = 10_000
"""Experiments that were refused or said never to fit, so that each is read, and said, once."""


@dataclass(frozen=True)
class Admission:
    """The ticket of an admitted message: its request (or why it cannot be read) and its share of the machine."""

    request: Request | None
    error: InvalidMessageError | None
    reservation: Reservation
    cancelled: Callable[[], None]

    def release(self) -> None:
        """The message went to somebody else."""
        self.reservation.release()
        self.cancelled()


def need_of(request: Request, *, cpu_only: bool) -> Need:
    """The share of a machine that a request asks for; at least one core, and no GPUs where it is to do without."""
    wanted = request.resources
    share = Capacity(cores=max(1, wanted.cpus), memory=wanted.ram, disk=wanted.hdd)
    gpus = GpuNeed(slots=wanted.gpus, cards=wanted.gpu_count, memory=wanted.gpu_mem)
    return Need(share, gpus if gpus and not cpu_only else NO_GPUS)


class Refused:
    """Messages that stay where they are: what each needs, and until when. The same message is looked at many times
    before its turn comes, and need not be read for that."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[int, int], tuple[Need, float]] = OrderedDict()

    def add(self, body: bytes, request: Request, need: Need) -> None:
        self._entries[len(body), hash(body)] = need, request.lifetime_deadline or float("inf")
        if len(self._entries) > REMEMBERED:
            self._entries.popitem(last=False)

    def still(self, body: bytes, free: Ledger) -> bool:
        """The message was refused before, and nothing has changed that."""
        need, deadline = self._entries.get((len(body), hash(body)), (NO_NEED, 0.0))
        return deadline > time.time() and not free.fits(need)


class Quota:
    """How many more experiments may be taken, and how soon (`--limit-tasks`, `--limit-interval`, drain)."""

    def __init__(self, tasks: int, interval: float) -> None:
        self._left = tasks if tasks > 0 else None
        self._interval = interval
        self._next = 0.0
        self.closed = False

    @property
    def spent(self) -> bool:
        """True when nothing will be taken any more."""
        return self.closed or self._left == 0

    @property
    def wait(self) -> float:
        """Seconds until the next experiment may be taken."""
        return max(0.0, self._next - time.monotonic())

    def take(self) -> None:
        if self._left is not None:
            self._left -= 1
        self._next = time.monotonic() + self._interval

    def untake(self) -> None:
        """The message that was counted went to somebody else."""
        if self._left is not None:
            self._left += 1
        self._next = 0.0


@dataclass
class QueueCounts:
    """By queue, how often it was found or could not be read, and a message of it was looked at or left."""

    found: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)

    def forget(self, queue: str) -> None:
        """The queue is gone."""
        for counter in (self.found, self.failed, self.checked, self.ignored):
            del counter[queue]


class Intake:
    """The gate of all queues that this runner serves."""

    def __init__(
        self, ledger: Ledger, quota: Quota, *, cpu_only: bool, room: Callable[[], bool] = lambda: True
    ) -> None:
        self._ledger, self._quota, self._cpu_only, self._room = ledger, quota, cpu_only, room
        self._full = False
        self._told: set[str] = set()
        self._refused = Refused()
        self.counts = QueueCounts()

    @property
    def releases(self) -> int:
        return self._ledger.releases

    async def released(self, seen: int) -> None:
        await self._ledger.released(seen)

    async def opened(self) -> None:
        """Return once a core is free, the disk is not full and the quota allows a start (never again when it is
        spent)."""
        while True:
            seen = self._ledger.releases
            if self._quota.spent or not self._ledger.free.cores:
                await self._ledger.released(seen)
            elif self._quota.wait:
                await asyncio.sleep(self._quota.wait)
            elif self._disk_is_full():
                await asyncio.sleep(LOOK_FOR_ROOM)
            else:
                return

    def _disk_is_full(self) -> bool:
        """Said once, when it begins; experiments would only fail of it, one after the other."""
        before, self._full = self._full, not self._room()
        if self._full and not before:
            log.warning("the disk of the working directory is full: nothing is taken until there is room")
        return self._full

    def admit(self, queue: str, body: bytes) -> Admission | None:
        """Reserve what the message needs, or None when it must stay where it is for now."""
        admission = self._decide(queue, body)
        self.counts.checked[queue] += 1
        self.counts.ignored[queue] += admission is None
        return admission

    def _decide(self, queue: str, body: bytes) -> Admission | None:
        if self._quota.spent or self._quota.wait or not self._ledger.free.cores:
            return None
        if self._refused.still(body, self._ledger):
            return None
        try:
            request = parse_request(body)
        except InvalidMessageError as error:
            return self._take(None, error, NO_NEED)
        if _over(request):
            return self._take(request, None, NO_NEED)
        need = need_of(request, cpu_only=self._cpu_only)
        admission = self._admit_readable(queue, request, need)
        if admission is None:
            self._refused.add(body, request, need)
        return admission

    def _admit_readable(self, queue: str, request: Request, need: Need) -> Admission | None:
        if why_never := self._ledger.shortfalls(need):
            self._tell_once(queue, request.key, why_never)
            return None
        return self._take(request, None, need)

    def _take(self, request: Request | None, error: InvalidMessageError | None, need: Need) -> Admission | None:
        reservation = self._ledger.reserve(need)
        if reservation is None:
            return None
        self._quota.take()
        return Admission(request, error, reservation, self._quota.untake)

    def _tell_once(self, queue: str, key: str, why: list[str]) -> None:
        if key not in self._told:
            if len(self._told) >= REMEMBERED:
                self._told.clear()
            self._told.add(key)
            log.warning(
                "experiment %s on %s can never run on this machine and is left to others: %s",
                key,
                queue,
                "; ".join(why),
            )


def _over(request: Request) -> bool:
    """Its lifetime has passed: it needs no room, only an end."""
    return request.lifetime_deadline is not None and time.time() > request.lifetime_deadline
