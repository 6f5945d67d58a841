"""From bytes on a queue to a reserved place on this machine: read, then admit.

A message is looked at before it is taken. What cannot be read or must not be run is admitted without a reservation,
so that the attempt can set it aside; what can never fit here is left to other runners and said once.
"""

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf

from studio_runner.config.settings import TrustSettings
from studio_runner.errors import RejectedError
from studio_runner.machine.inventory import Capacity
from studio_runner.machine.ledger import Ledger, Reservation
from studio_runner.machine.lineup import Candidate
from studio_runner.machine.need import NO_GPUS, NO_NEED, GpuNeed, Need
from studio_runner.machine.placement import Placement
from studio_runner.messages.envelope import Envelope
from studio_runner.messages.request import Request
from studio_runner.messages.resources import Resources
from studio_runner.runner.hold import Hold, hold_of
from studio_runner.runner.opener import NO_KEY, Opener, Reading

log = logging.getLogger(__name__)

LOOK_FOR_ROOM = 1.0
"""Seconds between two looks at a full disk."""

REMEMBERED = 10_000
"""Experiments that were refused or said never to fit, so that each is read, and said, once."""


@dataclass(frozen=True)
class Admission:
    """The ticket of an admitted message: what it came to, and its share of the machine. `cancelled` is called where
    it was no experiment that counts."""

    reading: Reading
    reservation: Reservation
    cancelled: Callable[[], None]

    def release(self) -> None:
        """The message went to somebody else."""
        self.reservation.release()
        self.cancelled()


def need_of(wanted: Resources, *, cpu_only: bool) -> Need:
    """The share of a machine that is asked for; at least one core, and no GPUs where it is to do without."""
    share = Capacity(cores=max(1, wanted.cpus), memory=wanted.ram, disk=wanted.hdd)
    gpus = GpuNeed(slots=wanted.gpus, cards=wanted.gpu_count, memory=wanted.gpu_mem)
    return Need(share, gpus if gpus and not cpu_only else NO_GPUS)


@dataclass(frozen=True)
class Look:
    """What was read in a message that stays where it is. `deadline`: Unix time after which it must be read again;
    `objected`: it is no message for this runner, whatever room there is."""

    candidate: Candidate
    deadline: float
    objected: bool


class Looks:
    """Messages that stay where they are. The same message is looked at many times before its turn comes, and need
    not be read for that."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, Hashable], Look] = OrderedDict()

    def add(self, look: Look) -> None:
        self._entries[look.candidate.name] = look
        if len(self._entries) > REMEMBERED:
            self._entries.popitem(last=False)

    def find(self, queue: str, mark: Hashable) -> Look | None:
        """None when it must be read."""
        look = self._entries.get((queue, mark))
        return look if look and look.deadline > time.time() else None


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
        """The message that was counted went to somebody else, or was rejected."""
        if self._left is not None:
            self._left += 1
        self._next = 0.0


@dataclass
class QueueCounts:
    """By queue: how often it was found or could not be read, and a message of it looked at, left or rejected."""

    found: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)

    def forget(self, queue: str) -> None:
        """The queue is gone."""
        for counter in (self.found, self.failed, self.checked, self.ignored, self.rejected):
            del counter[queue]


def _no_objections(_request: Request) -> Sequence[str]:
    return ()


def _always() -> bool:
    return True


@dataclass(frozen=True)
class Terms:
    """On which terms messages are taken.

    `grace`: seconds by which an experiment may outlast its time limit. `patience`: see `Placement`. `room`: whether
    the disk has any. `objections`: why this runner leaves a request to others although it would fit, a phrase each.
    `opener` reads messages.
    """

    cpu_only: bool = False
    grace: float = 0.0
    patience: float = 0.0
    room: Callable[[], bool] = _always
    objections: Callable[[Request], Sequence[str]] = _no_objections
    opener: Opener = field(default_factory=lambda: Opener(TrustSettings()))


class Intake:
    """The gate of all queues that this runner serves."""

    def __init__(self, ledger: Ledger, quota: Quota, terms: Terms) -> None:
        self._ledger, self._quota, self._terms = ledger, quota, terms
        self._placement = Placement(ledger, terms.patience)
        self._full = False
        self._told: set[str] = set()
        self._looks = Looks()
        self._held = ""
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
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._quota.wait):
                        await self._ledger.released(seen)
            elif self._disk_is_full():
                await asyncio.sleep(LOOK_FOR_ROOM)
            else:
                return
            self._placement.resume(time.monotonic())

    def awaits(self, queue: str, body: bytes) -> bool:
        return self._placement.awaits(queue, _mark(body))

    def forget(self, queue: str) -> None:
        """The queue is gone."""
        self.counts.forget(queue)
        self._placement.forget(queue)

    def _disk_is_full(self) -> bool:
        """Said once, when it begins; experiments would only fail of it, one after the other."""
        before, self._full = self._full, not self._terms.room()
        if self._full and not before:
            log.warning("the disk of the working directory is full: nothing is taken until there is room")
        return self._full

    def admit(self, queue: str, body: bytes) -> Admission | None:
        """Reserve what the message needs, or None when it must stay where it is for now."""
        admission = self._decide(queue, body)
        self.counts.checked[queue] += 1
        self.counts.ignored[queue] += admission is None
        self.counts.rejected[queue] += admission is not None and isinstance(admission.reading.error, RejectedError)
        return admission

    @property
    def hold(self) -> Hold | None:
        """For which message room is held free, if for any."""
        now = time.monotonic()
        if self._quota.spent:
            return None
        if self._quota.wait or self._full:
            self._placement.resume(now)
        awaited = self._placement.awaited(now)
        return hold_of(awaited, now) if awaited and awaited.made_way else None

    def _decide(self, queue: str, body: bytes) -> Admission | None:
        if self._quota.spent or self._quota.wait or not self._ledger.free.cores:
            return None
        look = self._looks.find(queue, _mark(body))
        if look and not self._may_come(look):
            return None
        reading = self._terms.opener.read(queue, body, partial(self._is_wanted, queue, body))
        if reading is None:
            return None
        request = reading.request
        if request is None:
            return self._take(reading, NO_NEED)
        candidate = self._candidate(queue, _mark(body), request)
        if _over(request):
            self._placement.took(candidate)
            return self._take(reading, NO_NEED)
        return self._decide_readable(reading, request, candidate)

    def _is_wanted(self, queue: str, body: bytes, envelope: Envelope) -> bool:
        """Whether a sealed message is worth opening, by what it says of itself in clear text."""
        need = need_of(envelope.advice, cpu_only=self._terms.cpu_only)
        why_never = [*self._ledger.shortfalls(need), *([] if self._terms.opener.opens else [NO_KEY])]
        if why_never:
            candidate = Candidate(queue, envelope.name, _mark(body), need, inf, inf)
            self._tell_once(candidate, why_never)
            self._looks.add(Look(candidate, inf, objected=not self._terms.opener.opens))
        return not why_never

    def _may_come(self, look: Look) -> bool:
        """Whether a message that was left is to be read again."""
        if look.objected or self._ledger.shortfalls(look.candidate.need):
            return False
        return self._is_its_turn(look.candidate)

    def _decide_readable(self, reading: Reading, request: Request, candidate: Candidate) -> Admission | None:
        objections = self._terms.objections(request)
        if why_never := [*self._ledger.shortfalls(candidate.need), *objections]:
            self._tell_once(candidate, why_never)
        elif self._is_its_turn(candidate):
            return self._place(reading, candidate)
        self._looks.add(Look(candidate, request.lifetime_deadline or inf, bool(objections)))
        return None

    def _is_its_turn(self, candidate: Candidate) -> bool:
        now = time.monotonic()
        if self._placement.admits(candidate, now):
            return True
        awaited = self._placement.awaited(now)
        if awaited and awaited.made_way and awaited.key != self._held:
            self._held = awaited.key
            log.info("%s: others that would delay it are left", hold_of(awaited, now).sentence)
        return False

    def _candidate(self, queue: str, mark: Hashable, request: Request) -> Candidate:
        need, limit = (
            need_of(request.resources, cpu_only=self._terms.cpu_only),
            request.experiment.max_duration or inf,
        )
        expires = time.monotonic() - time.time() + (request.lifetime_deadline or inf)
        return Candidate(queue, request.key, mark, need, limit + self._terms.grace, expires + self._terms.grace)

    def _place(self, reading: Reading, candidate: Candidate) -> Admission | None:
        admission = self._take(reading, candidate.need, candidate.end(time.monotonic()))
        if admission:
            self._placement.took(candidate)
        return admission

    def _take(self, reading: Reading, need: Need, until: float = inf) -> Admission | None:
        reservation = self._ledger.reserve(need, until)
        if reservation is None:
            return None
        self._quota.take()
        return Admission(reading, reservation, self._untake)

    def _untake(self) -> None:
        """Whoever waits for the quota need not any longer."""
        waited_for = self._quota.spent or self._quota.wait
        self._quota.untake()
        if waited_for:
            self._ledger.changed()

    def _tell_once(self, candidate: Candidate, why: Sequence[str]) -> None:
        if candidate.key not in self._told:
            if len(self._told) >= REMEMBERED:
                self._told.clear()
            self._told.add(candidate.key)
            log.warning(
                "experiment %s on %s can never run on this machine and is left to others: %s",
                candidate.key,
                candidate.queue,
                "; ".join(why),
            )


def _mark(body: bytes) -> tuple[int, int]:
    """What tells one message from others, without reading it."""
    return len(body), hash(body)


def _over(request: Request) -> bool:
    """Its lifetime has passed: it needs no room, only an end."""
    return request.lifetime_deadline is not None and time.time() > request.lifetime_deadline
