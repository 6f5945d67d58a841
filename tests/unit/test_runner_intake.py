import asyncio
import json
import logging
import time

import pytest

from studio_runner.machine.gpus.card import Card
from studio_runner.machine.gpus.health import Patience
from studio_runner.machine.gpus.pool import Pool
from studio_runner.machine.inventory import Capacity
from studio_runner.machine.ledger import Ledger
from studio_runner.messages.request import parse_request
from studio_runner.runner.intake import Intake, Quota, Terms, need_of
from studio_runner.runner.prepare import spec_of

TOTAL = Capacity(cores=4, memory=8 * 10**9, disk=100 * 10**9)


def message(key="k", **resources):
    workspace = {"qualified": "file:///w.tar", "mutable": False, "unpack": True}
    experiment = {
        "key": key,
        "filename": "main.py",
        "args": [],
        "pythonver": 3,
        "pythonenv": [],
        "time_added": time.time(),
        "artifacts": {"workspace": workspace},
        "resources_needed": resources,
    }
    return {"experiment": experiment, "config": {}}


def body(document):
    return json.dumps(document).encode()


def intake(total=TOTAL, *, tasks=0, interval=0.0, cpu_only=False):
    ledger = Ledger(total)
    return Intake(ledger, Quota(tasks, interval), Terms(cpu_only=cpu_only)), ledger


def test_reserves_before_the_message_is_taken():
    gate, ledger = intake()
    ticket = gate.admit("local_q", body(message(cpus=2, ram="3gb", hdd="10gb")))
    assert ticket
    assert ledger.free == Capacity(cores=2, memory=5 * 10**9, disk=90 * 10**9)
    ticket.release()
    assert ledger.free == TOTAL


def test_a_message_that_names_no_cores_gets_one():
    gate, ledger = intake()
    assert gate.admit("local_q", body(message()))
    assert ledger.free.cores == 3


def test_what_does_not_fit_now_stays_and_smaller_ones_go_past():
    gate, _ = intake()
    assert gate.admit("local_q", body(message("a", cpus=3)))
    assert gate.admit("local_q", body(message("b", cpus=2))) is None
    assert gate.admit("local_q", body(message("c", cpus=1)))


def test_what_can_never_fit_is_left_to_others_and_said_once(caplog):
    gate, ledger = intake()
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            assert gate.admit("local_q", body(message("giant", cpus=64))) is None
    assert caplog.text.count("64 cores wanted, 4 here") == 1
    assert ledger.free == TOTAL


def test_a_request_for_gpus_needs_gpus_unless_the_operator_says_otherwise(caplog):
    gate, _ = intake()
    assert gate.admit("local_q", body(message(gpus=1, gpuMem="4gb"))) is None
    assert "GPU wanted, none here" in caplog.text
    relaxed, _ = intake(cpu_only=True)
    assert relaxed.admit("local_q", body(message(gpus=1, gpuMem="4gb")))


def with_cards(*slots):
    cards = [
        Card(f"GPU-{place}", "A100", 40 * 10**9, index=place, slots=count) for place, count in enumerate(slots)
    ]
    ledger = Ledger(TOTAL, Pool(cards, Patience(30, 600)))
    return Intake(ledger, Quota(0, 0.0), Terms()), ledger


def test_gpus_are_reserved_before_the_message_is_taken_and_come_back_with_the_cores():
    gate, ledger = with_cards(24, 4)
    ticket = gate.admit("local_q", body(message("a", gpus="1", gpuMem="4GB", hdd="1gb")))
    assert ticket
    assert ticket.reservation.gpus.cards == ("GPU-1",)
    waiting = body(message("b", gpuCount="2"))
    assert gate.admit("local_q", waiting) is None
    ticket.reservation.release_compute()
    assert ledger.free.cores == 4
    assert gate.admit("local_q", waiting).reservation.gpus.cards == ("GPU-0", "GPU-1")


def test_more_gpus_than_there_are_is_said_in_figures(caplog):
    gate, _ = with_cards(24)
    assert gate.admit("local_q", body(message("a", gpus="100"))) is None
    assert gate.admit("local_q", body(message("b", gpus=1, gpuMem="80gb"))) is None
    assert "100 GPU slots wanted, at most 24 here" in caplog.text
    assert "GPUs with 80 GB wanted (gpuMem), the largest here has 40 GB" in caplog.text


def test_the_environment_of_an_experiment_knows_of_its_gpus():
    _, ledger = with_cards(24)
    request = parse_request(body(message(gpus=1)))
    held = ledger.reserve(need_of(request.resources, cpu_only=False)).gpus
    assert spec_of(request, held).gpus
    assert not spec_of(request).gpus


def test_an_unreadable_message_is_taken_so_that_it_can_be_set_aside():
    gate, ledger = intake()
    ticket = gate.admit("local_q", b"{not json")
    assert ticket
    assert ticket.reading.request is None
    assert "line 1" in str(ticket.reading.error)
    assert ledger.free == TOTAL


def test_an_expired_experiment_needs_no_room():
    gate, ledger = intake()
    document = message(cpus=4)
    document["experiment"]["time_added"] = time.time() - 100
    document["config"]["experimentLifetime"] = "10s"
    assert gate.admit("local_q", body(document))
    assert ledger.free == TOTAL


def test_the_limit_on_tasks_counts_what_was_really_taken():
    gate, _ = intake(tasks=1)
    ticket = gate.admit("local_q", body(message("a")))
    assert ticket
    assert gate.admit("local_q", body(message("b"))) is None
    ticket.release()  # another runner was quicker
    assert gate.admit("local_q", body(message("b")))


async def test_the_gate_opens_when_a_core_comes_back():
    gate, _ = intake()
    ticket = gate.admit("local_q", body(message(cpus=4)))
    assert ticket
    opening = asyncio.create_task(gate.opened())
    await asyncio.sleep(0.01)
    assert not opening.done()
    ticket.release()
    await asyncio.wait_for(opening, 5)


async def test_starts_keep_their_distance():
    gate, _ = intake(interval=30.0)
    assert gate.admit("local_q", body(message("a")))
    assert gate.admit("local_q", body(message("b"))) is None
    opening = asyncio.create_task(gate.opened())
    await asyncio.sleep(0.01)
    assert not opening.done()
    opening.cancel()


def test_a_refused_message_is_taken_when_its_turn_comes_and_when_its_lifetime_is_over(monkeypatch):
    gate, ledger = intake()
    first = gate.admit("local_q", body(message("a", cpus=3)))
    assert first
    big = message("b", cpus=2)
    waiting = body(big)
    assert gate.admit("local_q", waiting) is None
    assert gate.admit("local_q", waiting) is None
    first.release()
    second = gate.admit("local_q", waiting)
    assert second
    assert second.reading.request.key == "b"
    second.release()

    held = gate.admit("local_q", body(message("c", cpus=3)))
    assert held
    big["experiment"]["time_added"] = time.time() - 10
    big["config"]["experimentLifetime"] = "70s"
    fading = body(big)
    assert gate.admit("local_q", fading) is None
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    assert gate.admit("local_q", fading), "what is over needs no room"
    assert ledger.free.cores == 1


def test_an_objection_of_this_runner_leaves_a_request_to_others_and_is_said_once(caplog):
    ledger = Ledger(TOTAL)
    terms = Terms(objections=lambda request: ["its image is not allowed here"] if request.key == "a" else [])
    gate = Intake(ledger, Quota(0, 0.0), terms)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert gate.admit("local_q", body(message("a"))) is None
    assert caplog.text.count("its image is not allowed here") == 1
    assert gate.hold is None
    assert gate.admit("local_q", body(message("b")))


def test_room_is_held_for_a_big_one_and_that_is_said_once_with_its_time(caplog):
    gate, ledger = intake()
    running = message("running", cpus=3)
    running["experiment"]["max_duration"] = "1h"
    first = gate.admit("local_q", body(running))
    assert first
    assert gate.admit("local_q", body(message("big", cpus=4, ram="2gb"))) is None
    assert gate.hold is None, "nobody was left for its sake"
    with caplog.at_level(logging.INFO):
        for number in range(3):
            assert gate.admit("local_q", body(message(f"small {number}", cpus=1))) is None
    assert caplog.text.count("held free for big of local_q until ") == 1
    hold = gate.hold
    assert hold
    assert (hold.key, hold.queue, hold.share.cores, hold.left) == ("big", "local_q", 4, 3)
    assert 3500 < hold.due - time.time() < 3700
    short = message("short", cpus=1)
    short["experiment"]["max_duration"] = "30m"
    assert gate.admit("local_q", body(short))
    assert gate.awaits("local_q", body(message("big", cpus=4, ram="2gb"))) is False, (
        "another message, of another time"
    )
    gate.forget("local_q")
    assert gate.hold is None
    assert gate.admit("local_q", body(message("small", cpus=1))) is None
    assert ledger.free.cores == 0


def test_a_lifetime_bounds_what_an_experiment_may_hold():
    gate, _ = intake()
    running = message("running", cpus=3)
    running["config"]["experimentLifetime"] = "1h"
    assert gate.admit("local_q", body(running))
    assert gate.admit("local_q", body(message("big", cpus=4))) is None
    assert gate.admit("local_q", body(message("small", cpus=1))) is None
    assert gate.hold
    assert 3500 < gate.hold.due - time.time() < 3700


@pytest.mark.parametrize("quota", [{"tasks": 1}, {"interval": 3600.0}])
async def test_a_message_that_counts_no_longer_keeps_nobody_waiting(quota):
    gate, _ = intake(**quota)
    ticket = gate.admit("local_q", b"it cannot be read, and needs nothing")
    waiting = asyncio.create_task(gate.opened())
    await asyncio.sleep(0)
    assert not waiting.done()
    ticket.release()
    async with asyncio.timeout(10):
        await waiting
    assert gate.admit("local_q", body(message()))
