"""The policy against a model of a machine and its queues: what a message is promised is kept, nothing is lost, and
room is held for nobody who is gone."""

import random
from math import inf

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.cards import Card, WholeCards
from studio_runner.machine.inventory import Capacity
from studio_runner.machine.ledger import Ledger
from studio_runner.machine.lineup import Candidate
from studio_runner.machine.need import NO_GPUS, GpuNeed, Need
from studio_runner.machine.placement import ABSENT, OVERDUE, UNSEEN, Placement

TOTAL = Capacity(cores=8, memory=16, disk=32)
CARDS = (Card(1, 8, "small-0"), Card(1, 8, "small-1"), Card(1, 24, "large-0"), Card(1, 24, "large-1"))
QUEUES = ("a", "b", "c")
PATIENCE = 40.0


def candidate(name, cores, *, limit=inf, queue="a", gpus=0, memory=0, expires=inf):
    need = Need(Capacity(cores, memory, 0), GpuNeed(gpus, gpus) if gpus else NO_GPUS)
    return Candidate(queue, name, name, need, limit, expires)


class Machine:
    """A ledger and its placement, with the clock that both go by; takes what is admitted."""

    def __init__(self, patience=100.0):
        self.ledger = Ledger(TOTAL, WholeCards(CARDS))
        self.placement = Placement(self.ledger, patience)
        self.now = 0.0

    def offer(self, one):
        """The reservation of a message that is taken; None when it is left."""
        if not self.placement.admits(one, self.now):
            return None
        reservation = self.ledger.reserve(one.need, one.end(self.now))
        assert reservation
        self.placement.took(one)
        return reservation

    def pause(self, until):
        """Nothing is offered until then."""
        self.now = until
        self.placement.resume(until)

    def awaited(self):
        found = self.placement.awaited(self.now)
        return found.key if found else None


@pytest.fixture
def machine():
    return Machine()


def test_small_ones_that_are_over_in_time_pass_a_big_one_and_others_do_not(machine):
    assert machine.offer(candidate("running", 6, limit=100))
    assert not machine.offer(candidate("big", 8, limit=50))
    assert machine.awaited() == "big"
    assert machine.placement.awaited(0).due == 100
    assert not machine.offer(candidate("too long", 1, limit=101))
    assert not machine.offer(candidate("unknown", 1))
    assert machine.offer(candidate("short", 1, limit=100))
    machine.pause(50.0)
    assert not machine.offer(candidate("short then", 1, limit=51))
    assert machine.placement.awaits("a", "big")


def test_one_that_leaves_its_room_to_the_big_one_passes_however_long_it_takes(machine):
    assert machine.offer(candidate("running", 6, limit=100))
    assert not machine.offer(candidate("big", 7))
    assert machine.offer(candidate("beside it", 1))
    assert not machine.offer(candidate("in its way", 1))


def test_the_big_one_begins_when_its_room_is_there_though_others_are_offered_first(machine):
    running = machine.offer(candidate("running", 6, limit=100))
    assert not machine.offer(candidate("big", 8))
    running.release()
    machine.pause(40.0)
    assert not machine.offer(candidate("small", 1, queue="b"))
    assert machine.offer(candidate("big", 8))
    assert machine.awaited() == "small"


def test_a_wait_for_cards_does_not_keep_cores_idle():
    machine = Machine(patience=0.0)
    assert machine.offer(candidate("running", 1, gpus=3))
    assert not machine.offer(candidate("four cards", 2, gpus=4))
    assert machine.offer(candidate("cores only", 6))
    assert not machine.offer(candidate("the last core", 1)), "that one is needed beside the cards"


def test_a_card_that_the_big_one_does_not_need_is_given_to_others(machine):
    assert machine.offer(candidate("running", 1, gpus=3, limit=100))
    machine.now = 1.0
    assert not machine.offer(candidate("two cards", 1, gpus=2))
    assert machine.offer(candidate("one card", 1, gpus=1)), "three come back, two are enough"
    machine = Machine()
    assert machine.offer(candidate("running", 1, gpus=3, limit=100))
    assert not machine.offer(candidate("four cards", 1, gpus=4))
    assert not machine.offer(candidate("one card", 1, gpus=1, limit=200))
    assert machine.offer(candidate("one card for a while", 1, gpus=1, limit=100))


def test_when_nobody_knows_the_time_others_pass_for_a_while_and_then_no_more(machine):
    assert machine.offer(candidate("running", 4))
    assert not machine.offer(candidate("big", 8))
    assert machine.placement.awaited(0).due is None
    machine.pause(99.0)
    assert not machine.offer(candidate("big", 8))
    assert machine.offer(candidate("unknown", 1))
    machine.now = 101.0
    assert not machine.offer(candidate("unknown too", 1))
    assert not machine.offer(candidate("short", 1, limit=1))


def test_with_a_known_end_in_the_way_those_that_are_over_by_then_pass_even_beside_an_unknown_one(machine):
    assert machine.offer(candidate("unknown", 2))
    assert machine.offer(candidate("known", 2, limit=1000))
    assert not machine.offer(candidate("big", 8))
    machine.pause(500.0)
    assert machine.offer(candidate("short", 1, limit=500))
    assert not machine.offer(candidate("long", 1, limit=501))


def test_of_a_message_that_is_not_offered_any_more_room_is_given_back_and_that_wakes_the_others(machine):
    assert machine.offer(candidate("running", 6, limit=1000))
    assert not machine.offer(candidate("big", 8))
    small = candidate("small", 1)
    assert not machine.offer(small)
    seen = machine.ledger.releases
    machine.now = UNSEEN
    assert not machine.offer(small)
    machine.now += 1.0
    assert machine.offer(small)
    assert machine.ledger.releases > seen
    assert machine.awaited() is None


def test_a_message_whose_room_is_there_and_that_does_not_come_is_waited_for_a_moment_only(machine):
    running = machine.offer(candidate("running", 6, limit=1000))
    assert not machine.offer(candidate("big", 8))
    running.release()
    machine.now = 20.0
    assert not machine.offer(candidate("small", 1))
    machine.now += ABSENT + 0.1
    assert machine.offer(candidate("small", 1))


def test_a_queue_that_goes_on_behind_it_shows_at_once_that_it_is_gone(machine):
    running = machine.offer(candidate("running", 8, limit=1000))
    assert not machine.offer(candidate("first", 6))
    running.release()
    machine.now = 1.0
    assert not machine.offer(candidate("elsewhere", 6, queue="b"))
    seen = machine.ledger.releases
    assert not machine.offer(candidate("second", 6))
    assert machine.ledger.releases > seen, "all are asked once more"
    assert not machine.offer(candidate("third", 7))
    assert machine.offer(candidate("second", 6)), "another runner has the first one"


def test_a_queue_that_is_in_the_middle_of_its_messages_shows_nothing(machine):
    running = machine.offer(candidate("running", 8, limit=1000))
    first, second = candidate("first", 6), candidate("second", 6)
    assert not machine.offer(first)
    running.release()
    assert not machine.offer(second)
    assert machine.offer(first)


def test_silence_while_nothing_can_be_taken_says_nothing(machine):
    running = machine.offer(candidate("running", 8, limit=1000))
    assert not machine.offer(candidate("big", 8))
    running.release()
    machine.pause(500.0)
    assert not machine.offer(candidate("small", 1, queue="b"))
    assert machine.offer(candidate("big", 8))


def test_nor_does_it_when_the_machine_is_full_and_somebody_looks_meanwhile(machine):
    assert machine.offer(candidate("running", 7, limit=1000))
    assert not machine.offer(candidate("big", 8))
    assert not machine.offer(candidate("too long", 1, limit=2000))
    short = machine.offer(candidate("short", 1, limit=500))
    for machine.now in (100.0, 200.0, 300.0):
        assert machine.awaited() == "big"
    short.release()
    machine.now = 310.0
    assert not machine.offer(candidate("too long", 1, limit=2000)), "the big one was not offered yet"
    assert machine.awaited() == "big"


def test_what_expires_or_loses_its_queue_is_waited_for_no_more(machine):
    assert machine.offer(candidate("running", 6, limit=1000))
    assert not machine.offer(candidate("big", 8, expires=10.0))
    small = candidate("small", 1, queue="b", limit=5000)
    assert not machine.offer(small)
    machine.now = 10.0
    assert machine.offer(small)
    assert not machine.offer(candidate("big", 8, queue="c"))
    assert machine.awaited() == "big"
    assert not machine.offer(candidate("other", 1, queue="b"))
    machine.placement.forget("c")
    assert machine.offer(candidate("other", 1, queue="b"))


def test_nothing_is_held_behind_an_experiment_that_does_not_end(machine):
    assert machine.offer(candidate("stuck", 6, limit=100))
    big, small = candidate("big", 8), candidate("small", 1)
    assert not machine.offer(big)
    for now in (99.0, 101.0, 100.0 + OVERDUE - 1):
        machine.pause(now)
        assert not machine.offer(small)
    machine.pause(100.0 + OVERDUE)
    assert machine.offer(small)


def test_queues_take_turns_however_long_one_of_them_is(machine):
    running = [machine.offer(candidate(f"running {n}", 1)) for n in range(8)]
    waiting = [candidate(f"a {n}", 1) for n in range(20)] + [candidate("b 0", 1, queue="b")]
    assert not any(machine.offer(one) for one in waiting)
    running.pop().release()
    begun = [one.key for one in waiting if machine.offer(one)]
    running.pop().release()
    begun += [one.key for one in waiting if one.key not in begun and machine.offer(one)]
    assert begun == ["a 0", "b 0"]


# -- against a model ------------------------------------------------------------------------------------------------


class Model(Machine):
    """Queues whose messages come, are offered in order, run for their time and end; some go away by themselves."""

    def __init__(self, random, *, known):
        super().__init__(patience=PATIENCE)
        self.random, self.known = random, known
        self.queues = {name: [] for name in QUEUES}
        self.running = []
        self.promises, self.bounds = {}, {}
        self.begun, self.gone, self.number, self.steps = set(), set(), 0, 0

    def arrive(self):
        self.number += 1
        draw = self.random
        whole = draw.random() < 0.1
        share = TOTAL if whole else Capacity(draw.randint(1, 4), draw.randint(0, 8), draw.randint(0, 16))
        cards = draw.choice((0, 0, 0, 1, 1, 2, 4))
        gpus = GpuNeed(cards=cards, memory=draw.choice((0, 8, 24 if cards < 3 else 8))) if cards else NO_GPUS
        unknown = not self.known and draw.random() < 0.3
        limit = inf if unknown else float(draw.choice((1, 5, 20, 60)))
        queue = draw.choice(QUEUES)
        name = f"m{self.number}"
        self.queues[queue].append(Candidate(queue, name, name, Need(share, gpus), limit))

    def vanish(self):
        """Another runner took it, or somebody withdrew it."""
        queue = self.queues[self.random.choice(QUEUES)]
        if queue:
            self.gone.add(queue.pop(self.random.randrange(len(queue))).key)

    def advance(self, span):
        """Time passes; at each end everything is offered, as consumers do on a release."""
        until = self.now + span
        while self.running and self.running[0][0] <= until:
            self.now = self.running[0][0]
            while self.running and self.running[0][0] == self.now:
                self.running.pop(0)[1].release()
            self.offer_all()
        self.now = until
        self.offer_all()

    def offer_all(self):
        """Until nothing is taken any more, in whatever order the queues come."""
        seen = None
        while seen != (self.ledger.releases, len(self.begun)):
            seen = (self.ledger.releases, len(self.begun))
            for name in self.random.sample(QUEUES, len(QUEUES)):
                self.offer_queue(name)

    def offer_queue(self, name):
        for one in list(self.queues[name]):
            if self.ledger.free.cores and (reservation := self.offer(one)):
                self.queues[name].remove(one)
                self.begin(one, reservation)
            free = self.ledger.free
            assert min(free.cores, free.memory, free.disk) >= 0
            self.note_promise()
        if not self.ledger.free.cores:
            self.placement.resume(self.now)

    def begin(self, one, reservation):
        self.begun.add(one.key)
        assert self.now <= self.promises.get(one.key, inf), f"{one.key} was promised an earlier time"
        assert self.now <= self.bounds.get(one.key, inf), f"{one.key} was delayed by what began after the patience"
        lasts = self.random.random() * min(one.limit, 60.0) if self.random.random() < 0.8 else min(one.limit, 90.0)
        self.running.append((self.now + lasts, reservation))
        self.running.sort(key=lambda pair: pair[0])

    def note_promise(self):
        found = self.placement.awaited(self.now)
        if found and found.due is not None:
            self.promises[found.key] = min(self.promises.get(found.key, inf), found.due)
            self.bounds.pop(found.key, None)
        elif found and self.now >= found.since + PATIENCE:  # nothing that begins now makes its wait longer
            ends = [end if held.until == inf else held.until for end, held in self.running]
            self.bounds.setdefault(found.key, max(ends))

    def step(self):
        self.steps += 1
        kind = self.random.random()
        if kind < 0.45:
            self.arrive()
            self.offer_all()
        elif kind < 0.9:
            self.advance(self.random.choice((0.5, 2.0, 10.0)))
        elif kind < 0.95:
            self.vanish()
        else:
            self.offer_all()

    def finish(self):
        """Every message that did not go away begins, and everything is given back."""
        for _ in range(40 * self.number + 100):
            if not any(self.queues.values()) and not self.running:
                break
            self.offer_all()
            self.advance(5.0)
        assert len(self.begun) == self.number - len(self.gone)
        assert self.ledger.free == TOTAL
        assert len(self.ledger.cards.free) == len(CARDS)
        assert not self.ledger.held


STEPS = 100_000
EXAMPLES = 250


@pytest.mark.parametrize("known", [True, False], ids=["all say how long", "some do not"])
def test_promises_are_kept_and_nothing_is_lost_whatever_comes(known):
    done = 0

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(seed=st.integers(0, 2**32), steps=st.integers(200, 260))
    def run(seed, steps):
        nonlocal done
        model = Model(random.Random(seed), known=known)
        for _ in range(steps):
            model.step()
        model.finish()
        done += model.steps

    run()
    assert done >= STEPS / 2
