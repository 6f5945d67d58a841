import pytest

from studio_runner.errors import ArtifactMissingError, EnvironmentFailedError, Reason, StorageUnavailableError
from studio_runner.runner.halt import Halt, explain
from studio_runner.runner.outcome import RULES, Outcome, Settle, backoff, from_error, of_reason


def test_every_reason_has_a_row():
    assert set(RULES) == set(Reason)


@pytest.mark.parametrize(
    ("reason", "settle"),
    [
        (Reason.COMPLETED, Settle.ACK),
        (Reason.SCRIPT_FAILED, Settle.ACK),
        (Reason.TIMED_OUT, Settle.ACK),
        (Reason.EXPIRED, Settle.ACK),
        (Reason.STOPPED, Settle.ACK),
        (Reason.OUT_OF_MEMORY, Settle.ACK),
        (Reason.DISK_EXCEEDED, Settle.ACK),
        (Reason.ENVIRONMENT_FAILED, Settle.ACK),
        (Reason.ARTIFACT_MISSING, Settle.ACK),
        (Reason.ARTIFACT_INVALID, Settle.ACK),
        (Reason.STORAGE_UNAVAILABLE, Settle.RETRY),
        (Reason.SYSTEM_ERROR, Settle.RETRY),
        (Reason.INVALID_MESSAGE, Settle.DEAD),
        (Reason.UNAUTHORISED, Settle.DEAD),
        (Reason.DRAINED, Settle.RETURN),
        (Reason.LEASE_LOST, Settle.ABANDON),
    ],
)
def test_what_becomes_of_the_message(reason, settle):
    assert of_reason(reason).settle is settle


def test_a_failure_that_may_pass_is_tried_again_though_its_reason_is_final():
    class IndexDownError(EnvironmentFailedError):
        transient = True

    assert from_error(IndexDownError("the index did not answer")).settle is Settle.RETRY
    assert from_error(EnvironmentFailedError("no such package")).settle is Settle.ACK


def test_the_hint_reaches_the_experimenter():
    outcome = from_error(ArtifactMissingError("workspace is not at file:///w.tar", hint="submit it again"))
    assert outcome.reason is Reason.ARTIFACT_MISSING
    assert outcome.sentence == "workspace is not at file:///w.tar (submit it again)"


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome(Reason.COMPLETED, "", exit_code=0), 0),
        (Outcome(Reason.COMPLETED, ""), 0),
        (Outcome(Reason.SCRIPT_FAILED, "", exit_code=3), 3),
        (Outcome(Reason.SCRIPT_FAILED, "", signal=9), 137),
        (Outcome(Reason.ENVIRONMENT_FAILED, ""), 1),
        (Outcome(Reason.SYSTEM_ERROR, ""), 3),
        (Outcome(Reason.STORAGE_UNAVAILABLE, "", exit_code=0), 3),
        (Outcome(Reason.TIMED_OUT, "", exit_code=0), 1),
        (Outcome(Reason.TIMED_OUT, "", signal=15), 143),
    ],
)
def test_the_exit_code_of_a_command_that_ran_it(outcome, code):
    assert outcome.script_exit == code


def test_backoff_grows_and_is_bounded():
    waits = [backoff(attempts) for attempts in range(50)]
    assert waits[:3] == [5.0, 10.0, 20.0]
    assert waits == sorted(waits)
    assert max(waits) == 600.0


def test_a_halt_beats_an_error_and_an_error_beats_a_surprise():
    halt = Halt(of_reason(Reason.TIMED_OUT))
    error = StorageUnavailableError("the store is away")
    surprise = ZeroDivisionError("oops")
    nested = ExceptionGroup("", [surprise, ExceptionGroup("", [error, ExceptionGroup("", [halt])])])
    assert explain(nested).reason is Reason.TIMED_OUT
    assert explain(ExceptionGroup("", [surprise, error])).reason is Reason.STORAGE_UNAVAILABLE
    assert explain(ExceptionGroup("", [surprise])).reason is Reason.SYSTEM_ERROR
    assert "ZeroDivisionError: oops" in explain(ExceptionGroup("", [surprise])).sentence
