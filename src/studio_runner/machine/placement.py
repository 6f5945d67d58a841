"""Which message is taken, so that an experiment that needs much of the machine gets its turn beside small ones.

One message is waited for at a time. Others pass it as long as they cannot delay it: they are over before its room
is there, or leave that room to it (EASY backfilling). What that guarantees is in docs/explanation/placement.md.

There is no clock here: `now` comes in, in seconds of any clock that only goes forward, the one by which the
ledger's reservations are dated.
"""

import bisect
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import inf

from studio_runner.machine.ledger import Ledger, Reservation
from studio_runner.machine.lineup import Candidate, Left, Lineup
from studio_runner.machine.need import Need

UNSEEN = 30.0
"""Seconds without an offer after which a message counts as gone: taken by another runner, withdrawn, moved."""
ABSENT = 3.0
"""The same while its room is there: then it would have been offered at once."""
OVERDUE = 600.0
"""Seconds that an experiment may outstay its time, to store its results for example, before its end is not counted
on any more."""
TRIES = 64
"""Different needs that are looked at for one that can be waited for."""


@dataclass(frozen=True)
class Awaited:
    """The message that is waited for. `since` when; `due`: when it begins at the latest, None when nobody can know;
    `made_way`: how often another was left for its sake."""

    queue: str
    key: str
    need: Need
    since: float
    due: float | None
    made_way: int


@dataclass(frozen=True)
class Plan:
    """How room comes for the message that is waited for: when the reservations `after` are given back.

    `due`: when that is at the latest (in the past when it is already); None when one of them may take for ever, and
    then `floor` is when the last of the others is. The plan is made anew when the ledger changes, or at `stale`.
    """

    due: float | None
    floor: float
    after: Sequence[Reservation]
    stale: float

    @property
    def latest(self) -> float:
        """What is over by then cannot be in the way."""
        return self.floor if self.due is None else self.due


class Placement:
    """The policy for one ledger. `patience`: seconds that others may pass a message of which nobody can know when
    its room comes."""

    def __init__(self, ledger: Ledger, patience: float) -> None:
        self._ledger, self._patience = ledger, patience
        self._lineup = Lineup()
        self._awaited: Left | None = None
        self._plan: Plan | None = None
        self._planned = -1
        self._fruitless = -1
        self._resumed = -inf
        self._room_since: float | None = None
        self._doubted: int | None = None
        self._full = False

    def admits(self, candidate: Candidate, now: float) -> bool:
        """Whether the message may be taken now. It is remembered when it may not."""
        self._review(now)
        if not self._ledger.fits(candidate.need):
            self._leave(candidate, now)
            return False
        while (awaited := self._awaited) and awaited.candidate.name != candidate.name:
            if self._may_pass(candidate, awaited, now):
                break
            if not self._overtook(candidate, awaited):
                self._make_way(candidate, awaited, now)
                return False
            self._give_up(awaited)
            self._choose(now)
        return True

    def took(self, candidate: Candidate) -> None:
        """The message was taken: its need is reserved."""
        self._lineup.drop(candidate)
        self._planned = -1
        self._full = not self._ledger.free.cores
        awaited = self._awaited
        if awaited and awaited.candidate.name == candidate.name:
            self._lineup.served(candidate.queue)
            self._let_go(awaited)

    def resume(self, now: float) -> None:
        """No message could be taken for a while, so that none was offered: that says nothing about them."""
        self._resumed = now

    def forget(self, queue: str) -> None:
        """The queue is gone, and its messages with it."""
        self._lineup.forget(queue)
        if self._awaited and self._awaited.candidate.queue == queue:
            self._let_go(self._awaited)

    def awaits(self, queue: str, mark: Hashable) -> bool:
        """Whether room is held for this message: others were left for its sake."""
        awaited = self._awaited
        return awaited is not None and awaited.made_way > 0 and awaited.candidate.name == (queue, mark)

    def awaited(self, now: float) -> Awaited | None:
        """The message that is waited for."""
        self._review(now)
        left, plan = self._awaited, self._plan
        if left is None or plan is None:
            return None
        due = None if plan.due is None else max(now, plan.due)
        about = left.candidate
        return Awaited(about.queue, about.key, about.need, left.since or now, due, left.made_way)

    # -- who is waited for --------------------------------------------------------------------------------------

    def _review(self, now: float) -> None:
        """Whoever is waited for may be gone, or have no chance any more; then it is the next one's turn."""
        if self._full:  # since then nothing could be taken
            self.resume(now)
            self._full = not self._ledger.free.cores
        awaited = self._awaited
        if awaited and (self._is_gone(awaited, now) or not self._has_plan(awaited, now)):
            self._give_up(awaited)
        if self._awaited is None:
            self._choose(now)

    def _choose(self, now: float) -> None:
        if self._fruitless == self._ledger.releases:
            return
        hopeless: set[Need] = set()
        for left in self._lineup.in_turn():
            if left.candidate.expires <= now or self._unseen_for(left, now) > UNSEEN:
                self._lineup.drop(left.candidate)
            elif left.candidate.need not in hopeless:
                if self._await(left, now):
                    return
                hopeless.add(left.candidate.need)
                if len(hopeless) >= TRIES:
                    break
        self._fruitless = self._ledger.releases

    def _leave(self, candidate: Candidate, now: float) -> None:
        known = self._lineup.find(candidate) is not None
        left = self._lineup.note(candidate, now, now - UNSEEN)
        left.releases = self._ledger.releases
        if self._awaited is None and not known:  # of those that are known none can be waited for
            self._await(left, now)

    def _await(self, left: Left, now: float) -> bool:
        """Wait for this one, if it can get its room at all."""
        self._room_since = None
        self._planned = -1
        if not self._has_plan(left, now):
            return False
        left.since = now if left.since is None else left.since
        self._awaited, self._doubted = left, None
        return True

    def _give_up(self, awaited: Left) -> None:
        """Nobody waits for it any more, until it is offered again."""
        self._lineup.drop(awaited.candidate)
        self._let_go(awaited)

    def _let_go(self, awaited: Left) -> None:
        """Others that were left for its sake may fit now."""
        self._awaited = None
        self._fruitless = -1
        if awaited.made_way:
            self._ledger.changed()

    def _is_gone(self, awaited: Left, now: float) -> bool:
        if awaited.candidate.expires <= now:
            return True
        unseen = self._unseen_for(awaited, now)
        if self._room_since is not None and min(unseen, now - self._room_since) > ABSENT:
            return True
        return unseen > UNSEEN

    def _unseen_for(self, left: Left, now: float) -> float:
        return now - max(left.seen, self._resumed)

    # -- who may pass -------------------------------------------------------------------------------------------

    def _may_pass(self, candidate: Candidate, awaited: Left, now: float) -> bool:
        """Whether the awaited one can begin as soon with `candidate` running as without."""
        plan = self._plan
        assert plan  # noqa: S101 - it was reviewed
        if plan.due is None and awaited.since is not None and now < awaited.since + self._patience:
            return True
        if candidate.end(now) <= plan.latest:
            return True
        return self._ledger.fits(awaited.candidate.need, plan.after, candidate.need)

    def _make_way(self, candidate: Candidate, awaited: Left, now: float) -> None:
        """Leave it for the sake of the awaited one."""
        awaited.made_way += 1
        if self._room_since is not None and self._doubted is None and self._is_behind(candidate, awaited):
            self._ledger.changed()
            self._doubted = self._ledger.releases
        self._leave(candidate, now)

    def _overtook(self, candidate: Candidate, awaited: Left) -> bool:
        """Whether `candidate` shows that the awaited one is gone. A queue offers in order: when one from behind
        comes though the room of the awaited one is there, all are asked once more, and when it comes again before
        that one did, that one is not there any more. So nobody waits long behind what another runner took."""
        if self._doubted is None or awaited.releases >= self._doubted or not self._is_behind(candidate, awaited):
            return False
        known = self._lineup.find(candidate)
        return known is not None and known.releases >= self._doubted

    def _is_behind(self, candidate: Candidate, awaited: Left) -> bool:
        """Whether it is a later message of the same queue that needs no less: no large one starves by it."""
        first = awaited.candidate
        if candidate.queue != first.queue or not first.need <= candidate.need:
            return False
        known = self._lineup.find(candidate)
        return known is None or known.serial > awaited.serial

    # -- when its room comes ------------------------------------------------------------------------------------

    def _has_plan(self, left: Left, now: float) -> bool:
        """Make the plan anew where that is due; False when there is none."""
        plan = self._plan
        if self._planned != self._ledger.releases or (plan and plan.stale <= now):
            self._plan = plan = make_plan(self._ledger, left.candidate.need, now)
            self._planned = self._ledger.releases
            if plan is None or plan.after:
                self._room_since = None
            elif self._room_since is None:
                self._room_since = now
            if plan and plan.due is not None:
                left.promise = min(left.promise, max(now, plan.due))
        return plan is not None


def make_plan(ledger: Ledger, need: Need, now: float) -> Plan | None:
    """How room comes for `need`; None when the end of all that can be counted on would not make it.

    Of those whose end nobody knows as few as possible are counted on, the oldest first: what begins later than the
    wait is never among them, so that nothing that passes makes the wait longer.
    """
    dated = sorted((one for one in ledger.held if now < one.until + OVERDUE < inf), key=lambda one: one.until)
    endless = [one for one in ledger.held if one.until == inf]
    unknown = _fewest(endless, lambda some: ledger.fits(need, [*some, *dated]))
    if unknown is None:
        return None
    known = _fewest(dated, lambda some: ledger.fits(need, [*unknown, *some]))
    assert known is not None  # noqa: S101 - all of them would do
    floor = known[-1].until if known else -inf
    stale = dated[0].until + OVERDUE if dated else inf
    return Plan(None if unknown else floor, floor, [*unknown, *known], stale)


def _fewest(
    reservations: list[Reservation], enough: Callable[[list[Reservation]], bool]
) -> list[Reservation] | None:
    """The fewest of these, from the front, that are enough; None when all of them are not."""
    count = bisect.bisect_left(
        range(len(reservations) + 1), x=True, key=lambda number: enough(reservations[:number])
    )
    return reservations[:count] if count <= len(reservations) else None
