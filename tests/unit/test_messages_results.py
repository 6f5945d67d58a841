import json
from dataclasses import dataclass

import pytest

from studio_runner.errors import InvalidMessageError, Reason
from studio_runner.messages.results import Attempted, parse_results, results_document, stop_requested


@dataclass(frozen=True)
class Ended:
    reason: Reason
    sentence: str
    exit_code: int | None = None
    signal: int | None = None
    transient: bool = False


ATTEMPTED = Attempted(host="machine", number=2, started=1000.5, finished=1060.0)


def document(end):
    return results_document("key", end, ATTEMPTED, {"output": "output.tar", "modeldir": "modeldir.tar"})


def test_success_says_ok_and_where_everything_is():
    found = document(Ended(Reason.COMPLETED, "The script ran to its end.", exit_code=0))
    assert found == {
        "exit_msg": "ok",
        "experiment_id": "key",
        "host": "machine",
        "artifacts": {"output": {"name": "output.tar"}, "modeldir": {"name": "modeldir.tar"}},
        "reason": "completed",
        "sentence": "The script ran to its end.",
        "exit_code": 0,
        "signal": None,
        "attempt": 2,
        "time_started": 1000.5,
        "time_finished": 1060.0,
    }


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (Ended(Reason.SCRIPT_FAILED, "It failed.", exit_code=3), "script_failed (exit code 3): It failed."),
        (Ended(Reason.OUT_OF_MEMORY, "Too much.", signal=9), "out_of_memory (signal 9): Too much."),
        (Ended(Reason.ARTIFACT_MISSING, "Not there."), "artifact_missing: Not there."),
    ],
)
def test_failure_says_reason_code_and_sentence_in_the_one_field_that_old_clients_show(end, message):
    assert document(end)["exit_msg"] == message


def test_that_a_failure_may_pass_reads_back():
    failed = Ended(Reason.ENVIRONMENT_FAILED, "No answer.", transient=True)
    assert parse_results(json.dumps(document(failed)).encode()).transient
    assert "transient" not in document(Ended(Reason.ENVIRONMENT_FAILED, "No such package."))


def test_what_is_written_reads_back():
    found = parse_results(json.dumps(document(Ended(Reason.SCRIPT_FAILED, "It failed.", exit_code=3))).encode())
    assert not found.ok
    assert (found.experiment_id, found.host, found.attempt) == ("key", "machine", 2)
    assert (found.reason, found.sentence, found.exit_code, found.signal) == ("script_failed", "It failed.", 3, None)
    assert (found.time_started, found.time_finished) == (1000.5, 1060.0)
    assert found.artifacts == {"output": "output.tar", "modeldir": "modeldir.tar"}


def test_other_runners_write_less():
    found = parse_results(
        b'{"exit_msg": "ok", "experiment_id": "k", "host": "h", "artifacts": {"a": {"name": "n"}}}'
    )
    assert found.ok
    assert (found.reason, found.exit_code, found.time_finished) == (None, None, None)


def test_fields_of_odd_types_count_as_missing():
    odd = {
        "exit_msg": "ok",
        "artifacts": ["a"],
        "exit_code": True,
        "time_started": "x",
        "time_finished": 5,
        "host": 7,
    }
    found = parse_results(json.dumps(odd).encode())
    assert (found.artifacts, found.exit_code, found.time_started, found.time_finished) == ({}, None, None, 5.0)
    assert found.host == ""


@pytest.mark.parametrize(
    ("body", "path"), [(b"", "$"), (b"[]", "$"), (b"{}", "$.exit_msg"), (b'{"exit_msg": 5}', "$.exit_msg")]
)
def test_what_are_no_results_is_told(body, path):
    with pytest.raises(InvalidMessageError) as caught:
        parse_results(body)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("body", "stop"),
    [
        (b'{"key": "k", "status": "stopped"}', True),
        (b'{"status": " Stopped "}', True),
        (b'{"status": "running"}', False),
        (b'{"status": null}', False),
        (b'{"status": ["stopped"]}', False),
        (b"{}", False),
        (b"[]", False),
        (b'"stopped"', False),
        (b"stopped", False),
        (b"", False),
        (b"\xff\xfe", False),
        (b"[" * 100_000, False),
    ],
    ids=str,
)
def test_only_a_plain_stop_is_one(body, stop):
    assert stop_requested(body[:200_000]) is stop


def test_a_time_of_hundreds_of_digits_is_none():
    found = parse_results(b'{"exit_msg": "ok", "time_started": 1%b, "time_finished": 5}' % (b"0" * 400))
    assert (found.time_started, found.time_finished) == (None, 5.0)
