"""Who gets which card."""

import pytest

from studio_runner.machine.cards import NO_ASSIGNMENT
from studio_runner.machine.gpus.card import AMD, Card, Condition
from studio_runner.machine.gpus.health import Patience
from studio_runner.machine.gpus.pool import CardState, Pool
from studio_runner.machine.need import GpuNeed

GB = 10**9
A100 = {"name": "NVIDIA A100", "memory": 40 * GB, "slots": 24}
T4 = {"name": "Tesla T4", "memory": 16 * GB, "slots": 4}
P40 = {"name": "Tesla P40", "memory": 24 * GB, "slots": 4}
V100 = {"name": "Tesla V100", "memory": 16 * GB, "slots": 16}


def pool(*kinds, fractions=1):
    cards = [Card(uuid=f"GPU-{place}", index=place, **kind) for place, kind in enumerate(kinds)]
    return Pool(cards, Patience(30, 600), fractions)


def mig(profile="3g.20gb", slots=10, memory=20 * GB):
    return {"name": "NVIDIA A100", "memory": memory, "slots": slots, "parent": "GPU-whole", "profile": profile}


def taken(cards, slots=0, count=0, memory=0):
    """Indices of what is given out, None when nothing is."""
    found = cards.take(GpuNeed(slots, count, memory))
    return None if found is None else [cards.places[uuid].card.index for uuid in found.cards]


def test_no_need_is_no_card():
    cards = pool(T4)
    assert cards.take(GpuNeed(memory=4 * GB)) == NO_ASSIGNMENT
    assert pool().take(GpuNeed()) == NO_ASSIGNMENT


def test_an_old_client_gets_one_card_the_smallest_that_suffices():
    cards = pool(A100, P40, T4)
    assert taken(cards, slots=1, memory=4 * GB) == [2]
    assert taken(cards, slots=1, memory=4 * GB) == [1]
    assert taken(cards, slots=1, memory=4 * GB) == [0]
    assert taken(cards, slots=1, memory=4 * GB) is None


def test_the_memory_is_that_of_each_card():
    cards = pool(T4, T4, A100)
    assert taken(cards, slots=1, memory=17 * GB) == [2]
    assert taken(cards, slots=8, count=2, memory=17 * GB) is None


def test_several_cards_only_where_no_single_one_of_the_machine_has_the_slots():
    cards = pool(V100, A100, V100, T4)
    assert taken(cards, slots=30) == [0, 2]
    cards = pool(V100, A100, V100)
    assert taken(cards, slots=20) == [1]
    assert taken(cards, slots=20) is None  # the two others would do, and it waits for the one that is enough


def test_as_few_cards_as_it_takes():
    cards = pool(T4, T4, T4, T4, V100, V100)
    assert taken(cards, slots=20) == [4, 5]
    assert taken(cards, slots=20) is None  # the other four have no 20
    assert taken(cards, slots=8, count=2) == [0, 1]


def test_the_number_of_cards_is_exact():
    cards = pool(A100, T4, T4, T4)
    assert taken(cards, slots=1, count=2) == [1, 2]
    assert taken(cards, slots=1, count=2) == [0, 3]
    assert taken(cards, count=1) is None


def test_cards_of_one_experiment_are_alike_where_that_is_possible():
    cards = pool(T4, V100, V100, P40)
    assert taken(cards, slots=2, count=2) == [1, 2]


def test_mixed_cards_are_those_with_the_fewest_slots():
    cards = pool(A100, T4, V100, P40)
    assert taken(cards, slots=18, count=2) == [1, 2]


def test_neighbours_go_together():
    cards = pool(T4, T4, T4, T4)
    assert taken(cards, count=1) == [0]
    assert taken(cards, count=2) == [1, 2]


def test_one_mig_instance_and_no_more():
    cards = pool(mig(), mig(), T4)
    assert taken(cards, slots=8) == [0]
    assert taken(cards, count=2) is None
    assert "2 GPUs wanted, 1 here (of 2 MIG instances an experiment can use one)" in cards.shortfall(
        GpuNeed(cards=2)
    )


def test_cards_of_two_vendors_are_not_mixed():
    cards = pool(T4, {**T4, "name": "AMD Instinct MI100", "vendor": AMD})
    assert taken(cards, count=2) is None
    assert cards.shortfall(GpuNeed(cards=2))
    assert cards.take(GpuNeed(cards=1)).vendor == "nvidia"
    assert cards.take(GpuNeed(cards=1)).vendor == AMD


def test_what_is_given_back_can_be_had_again():
    cards = pool(T4)
    need = GpuNeed(slots=1)
    held = cards.take(need)
    assert not cards.fits(need)
    assert cards.fits(need, [held])
    cards.give_back(held)
    assert cards.take(need) == held


def test_a_card_is_shared_only_where_that_is_configured():
    cards = pool(A100, fractions=3)
    held = [cards.take(GpuNeed(slots=8, memory=13 * GB)) for _ in range(4)]
    assert [one.cards if one else None for one in held] == [("GPU-0",)] * 3 + [None]
    assert {one.fraction for one in held[:3]} == {3}
    for one in held[:3]:
        assert not cards.fits(GpuNeed(slots=24))
        cards.give_back(one)
    assert cards.take(GpuNeed(slots=24)).fraction == 1


def test_what_is_larger_than_a_part_gets_a_whole_card():
    cards = pool(A100, fractions=2)
    held = cards.take(GpuNeed(slots=1, memory=21 * GB))
    assert held.fraction == 1
    assert not cards.fits(GpuNeed(slots=1))
    assert cards.fits(GpuNeed(slots=1), [held])


def test_a_shared_card_is_filled_before_another_is_begun():
    cards = pool(T4, T4, fractions=2)
    assert [taken(cards, slots=1) for _ in range(4)] == [[0], [0], [1], [1]]


def test_the_smaller_of_a_part_and_a_small_card_is_taken():
    cards = pool(A100, T4, fractions=2)
    assert taken(cards, slots=3) == [1]
    assert taken(cards, slots=3) == [0]


def test_several_cards_are_whole_cards():
    cards = pool(T4, T4, fractions=2)
    assert cards.take(GpuNeed(cards=1, slots=1)).fraction == 2
    assert not cards.fits(GpuNeed(cards=2))


def test_a_card_that_is_set_aside_is_not_given_out_and_not_forgotten():
    cards = pool(T4)
    cards.places["GPU-0"].health.alarm("the driver reported Xid 79", 0)
    assert not cards.fits(GpuNeed(slots=1))
    assert cards.shortfall(GpuNeed(slots=1)) is None
    assert cards.places["GPU-0"].state is CardState.SET_ASIDE


def test_a_card_settles_when_somebody_looks_at_it():
    cards, vacated = pool(T4), []
    cards.tell_when_vacated(vacated.append)
    held = cards.take(GpuNeed(slots=1))
    place = cards.places["GPU-0"]
    assert place.state is CardState.IN_USE
    cards.give_back(held)
    assert (place.state, vacated) == (CardState.SETTLING, [place])
    assert not cards.fits(GpuNeed(slots=1))
    place.health.looked_idle(Condition(used=0), 1e12)
    assert place.state is CardState.FREE


@pytest.mark.parametrize(
    ("kinds", "need", "words"),
    [
        ([], GpuNeed(slots=1), "1 GPU wanted, none here"),
        ([T4], GpuNeed(slots=1, memory=80 * GB), "GPUs with 80 GB wanted (gpuMem), the largest here has 16 GB"),
        ([T4, T4], GpuNeed(cards=4), "4 GPUs wanted, 2 here"),
        ([A100, T4], GpuNeed(cards=2, memory=20 * GB), "2 GPUs with 20 GB wanted, 1 here"),
        ([A100, T4], GpuNeed(slots=40), "40 GPU slots wanted, at most 28 here"),
        ([A100, T4], GpuNeed(slots=30, cards=1), "30 GPU slots wanted on 1 GPU, at most 24 here"),
        ([A100, T4, T4], GpuNeed(slots=30, cards=2), "30 GPU slots wanted on 2 GPUs, at most 28 here"),
        ([A100, T4], GpuNeed(slots=26, memory=20 * GB), "26 GPU slots with 20 GB wanted, at most 24 here"),
    ],
)
def test_what_can_never_be_had_is_said_in_figures(kinds, need, words):
    assert pool(*kinds).shortfall(need) == words


def test_what_can_be_had_is_not_lacking():
    assert pool(A100, T4).shortfall(GpuNeed(slots=28)) is None
    assert pool(mig()).shortfall(GpuNeed(slots=10)) is None
