"""What attempts make of a record, whoever else writes it."""

import itertools

import pytest

from studio_runner.errors import Reason
from studio_runner.reports.base import Checkpointed, Ended, Reserved, StageEntered, Started, Subject
from studio_runner.reports.progress import MOST_ATTEMPTS, applied, begun, noted, stop_requested

ADDED = 1000.0


def subject(number=1, runner="h-1", **experiment):
    return Subject(
        key="k",
        experiment={"key": "k", "time_added": ADDED, **experiment},
        queue="rmq_q",
        number=number,
        host="h",
        directory=None,
        runner=runner,
    )


def ended(about, at, reason=Reason.COMPLETED, *, final=True, started=None, sentence="It ended."):
    return Ended(about, at, reason, sentence, 0, None, final, 1, 1.0, started)


def told(*events, changes=None):
    for event in events:
        changes = noted(changes or {}, event)
    return changes


def client_record(**fields):
    """As studioml 0.0.49 writes it."""
    return {
        "key": "k",
        "args": ["1"],
        "filename": "a.py",
        "pythonenv": ["six==1.0"],
        "status": "waiting",
        "time_added": ADDED,
        "time_started": None,
        "time_last_checkpoint": 1001.0,
        "time_finished": None,
        "artifacts": {"m": {"key": "x", "credentials": {"aws": {"access_key": "a", "secret_access_key": "s"}}}},
        **fields,
    }


def test_a_client_sees_its_experiment_go_by_and_keeps_its_fields():
    about, record = subject(), client_record()
    changes = told(Started(about, 1010.0))
    record = applied(record, changes, about)
    assert (record["status"], record["time_started"], record["time_finished"]) == ("running", 1010.0, None)
    changes = told(Checkpointed(about, 1020.0), changes=changes)
    record = applied(record, changes, about)
    assert record["time_last_checkpoint"] == 1020.0
    record = applied(record, told(ended(about, 1030.0, started=1010.0), changes=changes), about)
    assert (record["status"], record["time_started"], record["time_finished"]) == ("finished", 1010.0, 1030.0)
    untouched = ("args", "filename", "pythonenv", "artifacts", "time_added")
    assert {name: record[name] for name in untouched} == {name: client_record()[name] for name in untouched}


def test_a_try_that_is_not_the_last_leaves_the_experiment_waiting():
    about = subject()
    record = applied(
        client_record(),
        told(Started(about, 1.0), ended(about, 2.0, Reason.DRAINED, final=False, started=1.0)),
        about,
    )
    assert (record["status"], record["time_finished"]) == ("waiting", None)


def test_a_stop_that_a_client_asked_for_is_not_taken_back():
    about = subject()
    changes = told(Started(about, 1010.0), StageEntered(about, 1011.0, "run"))
    asked = {**applied(client_record(), changes, about), "status": "stopped"}
    changes = told(Checkpointed(about, 1020.0), changes=changes)
    record = applied(asked, changes, about)
    assert (record["status"], record["time_last_checkpoint"]) == ("stopped", 1020.0)
    record = applied(record, told(ended(about, 1030.0, Reason.STOPPED, started=1010.0), changes=changes), about)
    assert (record["status"], record["time_finished"]) == ("stopped", 1030.0)


def test_a_stop_asked_for_between_two_attempts_meets_the_next_one():
    first = subject()
    record = applied(
        client_record(), told(Started(first, 1.0), ended(first, 2.0, Reason.SYSTEM_ERROR, final=False)), first
    )
    record = applied({**record, "status": "stopped"}, told(Started(subject(2), 3.0)), subject(2))
    assert record["status"] == "stopped"
    assert stop_requested(record, subject(2))


def test_what_a_client_wrote_back_as_it_had_read_it_before_is_put_right():
    about, before = subject(), client_record()
    changes = told(Started(about, 1010.0), Checkpointed(about, 1020.0), ended(about, 1030.0, started=1010.0))
    record = applied({**before, "status": "stopped"}, changes, about)
    assert (record["status"], record["time_started"], record["time_finished"]) == ("finished", 1010.0, 1030.0)
    assert record["studio_runner"]["attempts"][0]["started"] == 1010.0


def test_a_runner_that_was_believed_dead_takes_nothing_back():
    slow, successor = subject(1, "h-1"), subject(2, "h-2")
    slow_changes = told(Started(slow, 10.0))
    record = applied(applied(client_record(), slow_changes, slow), told(Started(successor, 20.0)), successor)
    record = applied(record, told(Checkpointed(slow, 30.0), changes=slow_changes), slow)
    assert (record["time_started"], record["time_last_checkpoint"]) == (20.0, 1001.0)
    assert record["studio_runner"]["attempt"] == 2


def test_a_lost_lease_is_history_and_nothing_else():
    slow, successor = subject(1, "h-1"), subject(2, "h-2")
    changes = told(Started(slow, 10.0))
    record = applied(applied(client_record(), changes, slow), told(Started(successor, 20.0)), successor)
    record = applied(record, told(ended(slow, 30.0, Reason.LEASE_LOST, started=10.0), changes=changes), slow)
    assert (record["status"], record["time_finished"], record["studio_runner"].get("reason")) == (
        "running",
        None,
        None,
    )
    history = record["studio_runner"]["attempts"]
    assert [(entry["number"], entry.get("reason")) for entry in history] == [(1, "lease_lost"), (2, None)]


def test_the_history_tells_of_every_attempt_once():
    record = client_record()
    for number in (1, 2):
        about = subject(number, f"h-{number}")
        changes = told(Started(about, 10.0 * number))
        record = applied(record, changes, about)
        changes = told(
            ended(about, 10.0 * number + 5, Reason.SYSTEM_ERROR, final=False, started=10.0 * number),
            changes=changes,
        )
        record = applied(applied(record, changes, about), changes, about)
    assert record["studio_runner"]["attempts"] == [
        {
            "number": number,
            "host": "h",
            "runner": f"h-{number}",
            "started": 10.0 * number,
            "ended": 10.0 * number + 5,
            "reason": "system_error",
            "sentence": "It ended.",
        }
        for number in (1, 2)
    ]


def test_an_attempt_whose_runner_died_has_no_end():
    record = applied(client_record(), told(Started(subject(1, "h-1"), 10.0)), subject(1, "h-1"))
    record = applied(record, told(Started(subject(2, "h-2"), 20.0)), subject(2, "h-2"))
    assert ["ended" in entry for entry in record["studio_runner"]["attempts"]] == [False, False]


def test_the_history_is_bounded():
    record = client_record()
    for number in range(1, MOST_ATTEMPTS + 6):
        record = applied(record, told(Started(subject(number), float(number))), subject(number))
    numbers = [entry["number"] for entry in record["studio_runner"]["attempts"]]
    assert numbers == list(range(6, MOST_ATTEMPTS + 6))


def test_the_order_of_two_writers_does_not_matter_to_the_history():
    one, other = subject(1, "h-1"), subject(2, "h-2")
    said = [
        (told(Started(one, 10.0), ended(one, 15.0, Reason.LEASE_LOST, started=10.0)), one),
        (told(Started(other, 20.0), ended(other, 25.0, started=20.0)), other),
    ]
    for order in itertools.permutations(said):
        record = client_record()
        for changes, about in order:
            record = applied(record, changes, about)
        assert record["status"] == "finished"
        assert {entry["number"] for entry in record["studio_runner"]["attempts"]} == {1, 2}


@pytest.mark.parametrize(
    "studio_runner", [None, "x", [], {"attempts": {}}, {"attempts": [1, None, {"number": "x"}]}]
)
def test_what_somebody_else_made_of_our_part_is_no_trouble(studio_runner):
    record = applied(client_record(studio_runner=studio_runner), told(Started(subject(), 10.0)), subject())
    assert record["status"] == "running"
    assert record["studio_runner"]["attempts"][-1]["started"] == 10.0


def test_a_record_that_did_not_exist_can_be_read_by_clients_and_holds_no_credentials():
    about = subject(
        artifacts={"m": {"qualified": "s3://u:hunter2@h/b/k", "credentials": {"aws": {"secret_key": "x"}}}}
    )
    record = applied(begun(about), told(Started(about, 10.0)), about)
    assert {"key", "filename", "pythonenv", "status", "time_added", "artifacts"} <= record.keys()
    assert "hunter2" not in str(record)
    assert "credentials" not in str(record)


@pytest.mark.parametrize(
    ("record", "number", "asked"),
    [
        ({"status": "stopped", "time_finished": None}, 1, True),
        ({"status": "stopped"}, 3, True),
        ({"status": "running"}, 1, False),
        ({"status": "finished", "time_finished": 1.0}, 1, False),
        # it took effect, and the message came once more
        ({"status": "stopped", "time_finished": 1020.0, "studio_runner": {"attempt": 1}}, 2, True),
        # it took effect, and somebody runs the message again on purpose
        ({"status": "stopped", "time_finished": 1020.0, "studio_runner": {"attempt": 1}}, 1, False),
        # of an experiment of the same name, earlier
        ({"status": "stopped", "time_finished": 900.0, "studio_runner": {"attempt": 1}}, 2, False),
        ({"status": "stopped", "time_finished": None, "time_added": 800.0}, 1, False),
        ({"status": "stopped", "time_finished": None, "time_added": ADDED}, 1, True),
    ],
)
def test_whose_stop_it_is(record, number, asked):
    assert stop_requested(record, subject(number)) is asked


def test_the_history_tells_what_each_attempt_had_of_its_machine():
    share = Reserved(cores=2, memory=3, disk=4, gpus=[("GPU-1", "Tesla T4")], gpu_fraction=2)
    first, second = subject(), subject(2, "h-2")
    changes = told(Started(first, 1100.0, share), ended(first, 1110.0, Reason.SYSTEM_ERROR, final=False))
    document = applied(client_record(), changes, first)
    document = applied(document, told(Started(second, 1200.0, Reserved(1, 0, 0))), second)
    earlier, later = document["studio_runner"]["attempts"]
    assert earlier["reason"] == "system_error"
    assert earlier["reserved"] == {
        "cores": 2, "memory": 3, "disk": 4, "gpus": [{"uuid": "GPU-1", "name": "Tesla T4"}], "gpu_fraction": 2,
    }  # fmt: skip
    assert later["reserved"] == {"cores": 1, "memory": 0, "disk": 0, "gpus": []}
