"""When a card may be given to the next experiment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio_runner.machine.gpus.card import Card, Condition
from studio_runner.machine.gpus.health import Health, Patience

GB = 10**9
IDLE = Condition(used=GB // 2)
BUSY = Condition(used=30 * GB, processes={4711: 29 * GB})


def health(condition=IDLE):
    found = Health(Card("GPU-1", "A100", 40 * GB), Patience(settling=30, probation=600))
    found.looked_idle(condition, 0)
    return found


def test_an_idle_card_is_well():
    assert health().well


def test_a_card_that_somebody_else_computes_on_is_set_aside():
    card = health(BUSY)
    assert card.trouble == "process 4711 computes on it"
    card.looked_idle(IDLE, 10)
    assert card.well


def test_many_processes_are_not_all_named():
    many = health(Condition(used=GB, processes=dict.fromkeys(range(1, 6), GB)))
    assert many.trouble == "process 1, 2, 3 and others computes on it"


def test_memory_that_nobody_shows_for_is_somebody_elses():
    card = health(Condition(used=20 * GB))
    assert "20 GB of its memory are in use by nobody that can be seen" in card.trouble


def test_a_desktop_may_have_its_share():
    assert health(Condition(used=3 * GB)).well


@pytest.mark.parametrize("left", [BUSY, Condition(used=2 * GB), Condition(used=GB // 2, processes={7: None})])
def test_after_an_experiment_it_waits_for_memory_and_processes_to_be_gone(left):
    card = health()
    card.looked_busy(BUSY, 50)
    card.released(100)
    assert not card.well
    card.looked_idle(left, 101)
    assert not card.well
    assert not card.trouble
    card.looked_idle(Condition(used=GB // 2 + 100 * 10**6), 102)
    assert card.well


def test_a_card_that_does_not_become_clean_is_set_aside_until_it_does():
    card = health()
    card.released(100)
    card.looked_idle(Condition(used=5 * GB), 129)
    assert not card.trouble
    card.looked_idle(Condition(used=5 * GB), 131)
    assert (
        card.trouble == "5 GB of its memory are in use by nobody that can be seen, 31s after its experiment ended"
    )
    card.looked_idle(Condition(used=5 * GB), 500)
    assert card.trouble
    card.looked_idle(IDLE, 600)
    assert card.well


def test_a_busy_card_is_judged_by_its_faults_alone():
    card = health()
    card.looked_busy(BUSY, 1)
    assert not card.trouble
    card.looked_busy(Condition(used=GB, faults=("GPU is lost", "a page")), 2)
    assert card.trouble == "GPU is lost; a page"


def test_a_fault_that_was_reported_lasts_for_the_probation_and_begins_anew():
    card = health()
    card.alarm("the driver reported Xid 74", 100)
    card.looked_idle(IDLE, 650)
    assert card.trouble == "the driver reported Xid 74"
    card.alarm("the driver reported Xid 48", 660)
    card.looked_idle(IDLE, 1200)
    assert card.trouble == "the driver reported Xid 48"
    card.looked_idle(IDLE, 1261)
    assert card.well


def test_after_the_probation_it_must_be_clean_as_well():
    card = health()
    card.alarm("the driver reported Xid 74", 100)
    card.released(200)
    card.looked_idle(BUSY, 800)
    assert "computes on it" in card.trouble


def test_a_driver_that_does_not_answer_is_a_fault_until_it_does():
    card = health()
    card.mute()
    assert card.trouble == "the driver does not answer"
    card.looked_idle(IDLE, 10)
    assert card.well


CONDITIONS = st.builds(
    Condition,
    used=st.sampled_from((GB // 2, 2 * GB, 30 * GB)),
    processes=st.sampled_from(({}, {7: None}, {7: GB, 8: GB})),
    faults=st.sampled_from(((), (), ("GPU is lost",))),
)
EVENTS = st.sampled_from(("idle", "idle", "busy", "alarm", "release", "mute"))


@given(st.lists(st.tuples(EVENTS, CONDITIONS, st.integers(1, 900)), max_size=60))
def test_whatever_happens_a_card_is_given_out_only_when_its_last_look_was_clean(events):
    """And none is lost for ever: a quiet and clean look after the probation always brings it back."""
    card, now, alarmed = health(), 0, -1000
    for event, condition, pause in events:
        now += pause
        if event == "alarm":
            card.alarm("the driver reported Xid 74", now)
            alarmed = now
        elif event == "release":
            card.released(now)
        elif event == "mute":
            card.mute()
        elif event == "busy":
            card.looked_busy(condition, now)
        else:
            card.looked_idle(condition, now)
            clean = condition.used == GB // 2 and not condition.processes and not condition.faults
            assert card.well <= (not condition.processes and not condition.faults and condition.used < 10 * GB)
            assert card.well == clean or condition.used == 2 * GB or now - alarmed < 600
        assert card.well or card.trouble or card.settling is not None
        if event in ("alarm", "release", "mute"):
            assert not card.well
    card.looked_idle(IDLE, now + 600)
    assert card.well
