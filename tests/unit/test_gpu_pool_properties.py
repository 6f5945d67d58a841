"""The allocator with the ledger, against one that tries everything: never too much, nothing lost, the best fit.

The steps come as bytes, four each: lists of lists would take hypothesis longer than all the steps.
"""

from itertools import combinations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studio_runner.machine.gpus.card import AMD, Card
from studio_runner.machine.gpus.health import Patience
from studio_runner.machine.gpus.pool import Pool
from studio_runner.machine.inventory import Capacity
from studio_runner.machine.ledger import Ledger
from studio_runner.machine.need import GpuNeed, Need

EXAMPLES, LEAST, MOST, WIDTH = 100, 1000, 1800, 4
TOTAL = Capacity(cores=64, memory=1000, disk=1000)
KINDS = [
    {"name": "T4", "memory": 16, "slots": 4},
    {"name": "P40", "memory": 24, "slots": 4},
    {"name": "V100", "memory": 16, "slots": 16},
    {"name": "V100", "memory": 32, "slots": 16},
    {"name": "A100", "memory": 40, "slots": 24},
    {"name": "A100", "memory": 20, "slots": 10, "parent": "GPU-whole", "profile": "3g.20gb"},
    {"name": "MI100", "memory": 32, "slots": 12, "vendor": AMD},
    {"name": "T4", "memory": 16, "slots": 4, "vendor": AMD},
]
counted = {"steps": 0, "taken": 0, "shared": 0, "several": 0, "refused": 0}


def machine(kinds, fractions):
    cards = [Card(uuid=f"GPU-{place}", index=place, **KINDS[kind]) for place, kind in enumerate(kinds)]
    return Pool(cards, Patience(30, 600), fractions)


def need_of(a, b, c):
    """Mostly small ones, some that nothing here can have."""
    return GpuNeed(slots=(0, 1, 1, 2, 4, 5, 12, 16, 20, 24, 30, 48)[a % 12], cards=(0, 0, 0, 1, 1, 2, 3, 4)[b % 8],
                   memory=(0, 0, 4, 10, 16, 20, 30, 50)[c % 8])  # fmt: skip


class Oracle:
    """What may be given out, found by trying all there is. `held` are the assignments that are out."""

    def __init__(self, pool):
        self.pool, self.cards, self.fractions = pool, pool.cards, pool.fractions

    def free(self, card, held):
        """Parts of it that nobody has."""
        return self.fractions - sum(self.fractions // one.fraction for one in held if card.uuid in one.cards)

    def singles(self, need, held):
        """Each card with the smallest amount of it that suffices and is free: (slots, memory) by UUID."""
        found = {}
        for card in self.cards:
            for divisor in {self.fractions, 1}:
                enough = card.slots >= need.slots * divisor and card.memory >= need.memory * divisor
                is_free = self.free(card, held) >= self.fractions // divisor
                part_would_do = divisor == 1 and self.fractions > 1 and (
                    card.slots >= need.slots * self.fractions and card.memory >= need.memory * self.fractions
                )  # fmt: skip
                if enough and is_free and not part_would_do and self.pool.places[card.uuid].health.well:
                    found[card.uuid] = (card.slots / divisor, card.memory / divisor)
        return found

    def sets(self, need, count, cards):
        """All that `count` of these cards can be."""
        usable = [card for card in cards if not card.parent and card.memory >= need.memory]
        return [
            chosen
            for chosen in combinations(usable, count)
            if len({card.vendor for card in chosen}) == 1 and sum(card.slots for card in chosen) >= need.slots
        ]

    def idle(self, held):
        return [
            card
            for card in self.cards
            if self.free(card, held) == self.fractions and self.pool.places[card.uuid].health.well
        ]

    def is_single(self, need):
        return need.cards == 1 or (
            not need.cards and any(card.slots >= need.slots and card.memory >= need.memory for card in self.cards)
        )

    def count(self, need):
        """As few as it takes, on the empty machine."""
        if need.cards:
            return need.cards
        return next((n for n in range(2, len(self.cards) + 1) if self.sets(need, n, self.cards)), None)

    def ever(self, need):
        if self.is_single(need):
            return any(card.slots >= need.slots and card.memory >= need.memory for card in self.cards)
        count = self.count(need)
        return bool(count and self.sets(need, count, self.cards))

    def check(self, need, given, held):
        """`given` for `need`, while `held` was out."""
        if self.is_single(need):
            self.check_single(need, given, self.singles(need, held))
        else:
            count = self.count(need)
            self.check_several(given, self.sets(need, count, self.idle(held)) if count else [])

    def check_single(self, need, given, possible):
        assert (given is not None) == bool(possible)
        if given:
            (uuid,) = given.cards
            card = self.pool.places[uuid].card
            assert (
                possible[uuid]
                == min(possible.values())
                == (card.slots / given.fraction, card.memory / given.fraction)
            )

    def check_several(self, given, possible):
        assert (given is not None) == bool(possible)
        if not given:
            return
        chosen = tuple(self.pool.places[uuid].card for uuid in given.cards)
        assert chosen in possible
        assert given.fraction == 1

        def alike(cards):
            return len({(card.vendor, card.name, card.slots, card.memory) for card in cards}) == 1

        def total(cards):
            return sum(card.slots for card in cards), sum(card.memory for card in cards)

        uniform = [cards for cards in possible if alike(cards)]
        assert alike(chosen) == bool(uniform)
        assert total(chosen) == min(map(total, uniform or possible))


def check_account(pool, ledger, held):
    """Nobody has what another one has, and the books say so."""
    for uuid, place in pool.places.items():
        here = [one.gpus for one in held if uuid in one.gpus.cards]
        assert place.taken == sum(pool.fractions // one.fraction for one in here) <= pool.fractions
        assert len(here) < 2 or {one.fraction for one in here} == {pool.fractions}
    assert ledger.free.cores == TOTAL.cores - len(held)
    assert list(ledger.held) == held


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kinds=st.lists(st.integers(0, len(KINDS) - 1), min_size=1, max_size=7),
    fractions=st.sampled_from((1, 1, 2, 3)),
    steps=st.binary(min_size=LEAST * WIDTH, max_size=MOST * WIDTH),
)
def walk(kinds, fractions, steps):
    pool = machine(kinds, fractions)
    oracle, ledger, held = Oracle(pool), Ledger(TOTAL, pool), []
    for at in range(0, len(steps) - WIDTH + 1, WIDTH):
        counted["steps"] += 1
        step(oracle, ledger, held, steps[at : at + WIDTH])
        check_account(pool, ledger, held)
    for reservation in held:
        reservation.release()
    assert ledger.free == TOTAL
    assert not ledger.held
    assert not any(place.taken for place in pool.places.values())


def step(oracle, ledger, held, data):
    (action, a, b, c), pool = data, oracle.pool
    if action < 10:
        health = pool.places[f"GPU-{a % len(pool.places)}"].health
        health.trouble = "" if health.trouble else "the driver reported Xid 79"
    elif action < 100 and held:
        held.pop(a % len(held)).release()
    else:
        reserve(oracle, ledger, held, need_of(a, b, c))


def reserve(oracle, ledger, held, gpus):
    need, out = Need(Capacity(cores=1, memory=0, disk=0), gpus), [one.gpus for one in held]
    if gpus:
        assert (oracle.pool.shortfall(gpus) is None) == oracle.ever(gpus)
    fits, fits_afterwards = ledger.fits(need), ledger.fits(need, held)
    reservation = ledger.reserve(need)
    assert fits == (reservation is not None)
    if reservation:
        held.append(reservation)
        assert fits_afterwards
    if gpus and ledger.free.cores:
        oracle.check(gpus, reservation.gpus if reservation else None, out)
    count(reservation)


def count(reservation):
    counted["refused"] += reservation is None
    if reservation and reservation.gpus.cards:
        counted["taken"] += 1
        counted["several"] += len(reservation.gpus.cards) > 1
        counted["shared"] += reservation.gpus.fraction > 1


@pytest.mark.slow
def test_never_too_much_nothing_lost_and_the_best_fit():
    """At least 100,000 steps; none of what it is about may be missing from them."""
    counted.update(dict.fromkeys(counted, 0))
    walk()
    assert counted["steps"] >= 100_000
    assert min(counted["taken"], counted["refused"]) > 10_000
    assert min(counted["several"], counted["shared"]) > 1000
