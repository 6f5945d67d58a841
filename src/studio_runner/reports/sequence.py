"""What is reported of one attempt, in which order (INTERFACE section 8; docs/reference/reports.md)."""

from collections.abc import Iterator
from dataclasses import replace

from studio_runner.errors import Reason
from studio_runner.messages.report import Failure, LogEntry, Payload, Progress, Report, Severity, State, moment
from studio_runner.reports.base import Ended, Started, Subject

LONGEST = 4000
"""Characters of a sentence, and of an experiment's key: a message can say any."""


def opening(event: Started) -> Iterator[Payload]:
    """It has begun."""
    yield from before(event.subject)
    yield Progress(State.STARTED)
    yield LogEntry("start", Severity.INFO)


def before(subject: Subject) -> Iterator[Payload]:
    """Also where it never began."""
    yield LogEntry("scanning queue", Severity.DEBUG, {"queue_name": subject.queue})


def closing(event: Ended) -> Iterator[Payload]:
    """It is over, and so is the experiment, unless the state is Stopping: then there will be another attempt, here
    or elsewhere."""
    success = event.reason is Reason.COMPLETED
    sentence = event.sentence[:LONGEST]
    error = "" if success else sentence
    fields = {"success": str(success).lower(), "error": error, "reason": event.reason.value}
    yield LogEntry("stop", Severity.INFO, fields)
    if success:
        yield Progress(State.SUCCESS)
    else:
        state = State.FAILED if event.final else State.STOPPING
        yield Progress(state, error=Failure(sentence, _code(event)))


def gap(lines: int) -> Payload:
    """Instead of lines that are not reported."""
    return LogEntry(
        "lines of JSON were left out: more than could be sent", Severity.WARNING, {"left_out": str(lines)}
    )


def report_on(subject: Subject, at: float, payload: Payload) -> Report:
    """A report of this moment (Unix time)."""
    time = moment(at)
    if isinstance(payload, LogEntry | Progress):
        payload = replace(payload, time=time)
    return Report(subject.key[:LONGEST], unique_id(subject), subject.host, payload, time)


def unique_id(subject: Subject) -> str:
    """The same for all that is said of one attempt."""
    return f"{subject.key[:LONGEST]}.{subject.number}@{subject.runner}"


def _code(event: Ended) -> int:
    """As a shell has it: the script's exit code, or 128 and the signal that ended it; 0 where neither did."""
    return event.exit_code or (128 + event.signal if event.signal else 0)
