"""One runner's way through one queue: look at the oldest message, ask the gate, claim, hand it out; else wait."""

import asyncio
import errno
import time
from collections.abc import AsyncGenerator
from pathlib import Path

from studio_runner.queues import moves
from studio_runner.queues.backlog import Backlog, Entry
from studio_runner.queues.base import Gate, Ticket
from studio_runner.queues.claims import Claim, Claims, LocalDelivery
from studio_runner.queues.complaints import Complaints
from studio_runner.queues.layout import SOFT_LOCK, QueuePlace
from studio_runner.queues.reading import LARGEST, Content, Ripening, SoftLock, is_gone, read_message
from studio_runner.queues.waiting import first_of, heard
from studio_runner.queues.watch import Interest, Watch

LOCK_RETRY = 0.05
"""Seconds between two looks at a lock whose removal nobody may tell us of."""
BREATH = 8
"""Messages looked at before other tasks get their turn."""


class Consumer:
    """The deliveries of one queue to one gate."""

    def __init__(
        self, place: QueuePlace, claims: Claims, watch: Watch, complaints: Complaints, poll: float
    ) -> None:
        self._place = place
        self._claims = claims
        self._watch = watch
        self._complaints = complaints
        self._poll = poll
        self._backlog = Backlog(place.messages, self._complain_odd)
        self._lock = SoftLock(place.messages / SOFT_LOCK, complaints)
        self._ripening = Ripening()
        self._unripe: dict[str, tuple[Entry, float]] = {}
        self._locked: list[Entry] = []
        self._arrived: list[str] = []
        self._wake = asyncio.Event()
        self._next_look = float("-inf")
        self._releases = 0

    async def deliveries(self, gate: Gate) -> AsyncGenerator[LocalDelivery, None]:
        """For ever; ends only with its caller."""
        try:
            self._releases = gate.releases
            looked = 0
            while True:
                await gate.opened()
                self._catch_up(gate)
                entry = self._backlog.pop()
                if entry is None:
                    await self._wait(gate)
                    continue
                delivery = self._take(entry, gate)
                if delivery is not None:
                    yield delivery
                looked += 1
                if looked % BREATH == 0:
                    await asyncio.sleep(0)
        finally:
            self._watch.disarm(self._notice)

    # -- what may be offered ------------------------------------------------------------------------------------

    def _notice(self, name: str | None) -> None:
        """From the watch: something happened under this name."""
        if name is None:
            self._next_look = float("-inf")
        else:
            self._arrived.append(name)
        self._wake.set()

    def _catch_up(self, gate: Gate) -> None:
        """Offer what arrived, what may fit since something was given back, and what may be whole by now."""
        arrived, self._arrived = self._arrived, []
        for name in arrived:
            self._backlog.add(name)
        if gate.releases != self._releases:
            self._releases = gate.releases
            self._backlog.offer_oldest()
        if self._unripe:
            self._look_again(set(arrived))
        if self._locked and not self._lock.covers(self._locked[-1].seen):
            for entry in self._locked:
                self._backlog.push(entry)
            self._locked.clear()

    def _look_again(self, touched: set[str]) -> None:
        now = time.monotonic()
        for name, (entry, due) in list(self._unripe.items()):
            if due <= now or name in touched:
                del self._unripe[name]
                self._backlog.push(entry)

    def _next_occasion(self) -> float:
        """When to look again though nothing was heard."""
        ripe = min((due for _, due in self._unripe.values()), default=float("inf"))
        unlocked = time.monotonic() + LOCK_RETRY if self._locked else float("inf")
        return min(self._next_look, ripe, unlocked)

    async def _wait(self, gate: Gate) -> None:
        """Until there may be something to offer: an arrival, a release at the gate, or the next regular look."""
        if self._next_look <= time.monotonic():
            await self._look()
            return
        left = self._next_occasion() - time.monotonic()
        if self._backlog.has_refused:
            await first_of(heard(self._wake, left), gate.released(self._releases))
        else:
            await heard(self._wake, left)
        self._wake.clear()

    async def _look(self) -> None:
        """Read the directory if it changed."""
        self._next_look = time.monotonic() + self._poll
        self._backlog.offer_others()
        try:
            # First watch, then read: what comes in between is seen twice rather than never.
            if self._backlog.is_stale():
                self._watch.arm(self._place.messages, Interest.MESSAGES, self._notice)
                self._backlog.merge(await asyncio.to_thread(self._backlog.listing))
        except FileNotFoundError:
            self._backlog.vanish()
        except OSError as error:
            self._backlog.mistrust()
            self._complain(self._place.messages, error)
        else:
            self._complaints.settled(self._place.messages)

    # -- one message --------------------------------------------------------------------------------------------

    def _take(self, entry: Entry, gate: Gate) -> LocalDelivery | None:
        """The message, if it is whole, admitted and still there."""
        path = self._place.messages / entry.name
        if self._lock.covers(entry.seen):
            self._locked.append(entry)
            return None
        try:
            content = read_message(path)
            wait = self._ripening.wait(entry, content)
            if wait:
                self._unripe[entry.name] = (entry, time.monotonic() + wait)
                return None
            return self._offer(entry, content, gate)
        except OSError as error:
            if is_gone(error):
                self._backlog.forget(entry)
                self._ripening.forget(entry.name)
            else:
                self._complain(path, error)
                self._backlog.refuse(entry)
        return None

    def _offer(self, entry: Entry, content: Content, gate: Gate) -> LocalDelivery | None:
        if content.body is None:
            self._set_aside(entry, content)
            return None
        ticket = gate.admit(self._place.name, content.body)
        if ticket is None:
            if gate.awaits(self._place.name, content.body):
                self._backlog.refuse_for_now(entry)
            else:
                self._backlog.refuse(entry)
            return None
        claim = self._claim(entry, content)
        if claim is None:
            self._undo(gate, ticket)
            return None
        return self._claims.deliver(claim, content.body, ticket)

    def _claim(self, entry: Entry, content: Content) -> Claim | None:
        try:
            claim = self._claims.take(self._place, entry.name, content.version)
        except OSError as error:
            self._complain(self._place.claimed, error)
            self._backlog.refuse(entry)
            return None
        self._backlog.forget(entry)
        return claim

    def _undo(self, gate: Gate, ticket: Ticket) -> None:
        """Give back what was reserved for a message that went to somebody else. That is no reason to offer again
        what was refused before."""
        up_to_date = gate.releases == self._releases
        ticket.release()
        if up_to_date:
            self._releases = gate.releases

    def _set_aside(self, entry: Entry, content: Content) -> None:
        """A message too large to be read; no gate can want it."""
        claim = self._claim(entry, content)
        if claim is not None:
            reason = f"the message has {content.version.size} bytes, the most that is accepted is {LARGEST}"
            moves.set_aside(
                self._place, claim.path, claim.message.charged, moves.Parting(reason, self._claims.owner)
            )
            self._complaints.once(self._place.messages / entry.name, reason, "it is with the dead letters now")

    def _complain(self, path: Path, error: OSError) -> None:
        hint = _HINTS.get(error.errno or 0, "the rest of the queue goes on; it is tried again at regular looks")
        self._complaints.once(path, error.strerror or str(error), hint)

    def _complain_odd(self, path: Path) -> None:
        self._complaints.once(
            path, "is a link or a special file, ignored", "messages must be regular files; remove it"
        )


_HINTS = {
    errno.EACCES: "give the runner's user permission to read, rename and remove it",
    errno.EPERM: "give the runner's user permission to read, rename and remove it",
    errno.EROFS: "the runner must be able to rename messages: mount the queue root read-write",
    errno.EXDEV: "a queue directory must be on the same file system as the queue root",
    errno.ELOOP: "messages must be regular files; remove the link",
    errno.ENOSPC: "free some space; the queue goes on by itself then",
}
