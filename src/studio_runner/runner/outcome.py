"""How attempts end, and the one table that says what follows from each reason."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType

from studio_runner.errors import EnvironmentFailedError, ExitCode, ExperimentError, Reason
from studio_runner.messages.masking import Masker
from studio_runner.messages.results import Results


class Settle(Enum):
    """What becomes of the message."""

    ACK = "done with it"
    RETRY = "try again later, charged to the budget, then dead letters"
    RETURN = "give it back uncharged"
    DEAD = "set it aside for a person"
    ABANDON = "it is somebody else's now"


@dataclass(frozen=True)
class Rule:
    """One row of the table: what becomes of the message, and the sentence when nothing more precise is known."""

    settle: Settle
    sentence: str


RULES: Mapping[Reason, Rule] = MappingProxyType(
    {
        Reason.COMPLETED: Rule(Settle.ACK, "The script ran to its end."),
        Reason.SCRIPT_FAILED: Rule(Settle.ACK, "The script failed; its last lines of output say why."),
        Reason.TIMED_OUT: Rule(Settle.ACK, "The script ran longer than max_duration allows and was stopped."),
        Reason.EXPIRED: Rule(Settle.ACK, "The experiment's lifetime was over."),
        Reason.STOPPED: Rule(Settle.ACK, "The experiment was stopped on request."),
        Reason.OUT_OF_MEMORY: Rule(Settle.ACK, "The script used more memory than it asked for."),
        Reason.DISK_EXCEEDED: Rule(Settle.ACK, "The experiment used more disk than it asked for."),
        Reason.PROCESSES_EXCEEDED: Rule(Settle.ACK, "The script started more processes and threads than it may."),
        Reason.ENVIRONMENT_FAILED: Rule(Settle.ACK, "The Python environment could not be built."),
        Reason.ARTIFACT_MISSING: Rule(Settle.ACK, "An artifact that the experiment needs is not in its store."),
        Reason.ARTIFACT_INVALID: Rule(Settle.ACK, "An artifact of the experiment cannot be used."),
        Reason.STORAGE_UNAVAILABLE: Rule(Settle.RETRY, "The artifact store could not be used."),
        Reason.INVALID_MESSAGE: Rule(Settle.DEAD, "The request message cannot be read."),
        Reason.UNAUTHORISED: Rule(Settle.DEAD, "The credentials of the request were refused."),
        Reason.LEASE_LOST: Rule(Settle.ABANDON, "Another runner has taken the experiment over."),
        Reason.DRAINED: Rule(Settle.RETURN, "The runner is shutting down; the experiment goes back to its queue."),
        Reason.SYSTEM_ERROR: Rule(Settle.RETRY, "The runner failed while it handled the experiment."),
    }
)


@dataclass(frozen=True)
class Outcome:
    """The end of one attempt.

    `sentence` is for the experimenter. `exit_code` or `signal` is the script's, when it ran.
    `transient` says that a failure which is normally final may pass (an index that did not answer).
    """

    reason: Reason
    sentence: str
    exit_code: int | None = None
    signal: int | None = None
    transient: bool = False
    superseded: bool = False
    """Another attempt counts, whose runner has a message of its own."""

    @property
    def settle(self) -> Settle:
        """What becomes of the message while its budget lasts."""
        rule = RULES[self.reason].settle
        return Settle.RETRY if self.transient and rule is Settle.ACK else rule

    @property
    def script_exit(self) -> int:
        """The exit code for a command line that ran this experiment: the script's own, 128 + signal for a signal.
        An end that is no success is never 0: then 3 when the machine or the store is to blame, else 1."""
        own = self.exit_code if self.signal is None else 128 + self.signal
        if own or self.reason is Reason.COMPLETED:
            return own or ExitCode.DONE
        blame_us = self.reason in (Reason.STORAGE_UNAVAILABLE, Reason.SYSTEM_ERROR)
        return ExitCode.INFRASTRUCTURE if blame_us else ExitCode.FAILED


def from_error(error: ExperimentError) -> Outcome:
    """The outcome that an error of a stage stands for."""
    sentence = f"{error} ({error.hint})" if error.hint else str(error)
    transient = isinstance(error, EnvironmentFailedError) and getattr(error, "transient", False)
    return Outcome(error.reason, sentence, transient=transient)


def of_reason(reason: Reason, detail: str = "") -> Outcome:
    """The outcome of a reason with its standard sentence, and `detail` after it."""
    sentence = RULES[reason].sentence
    return Outcome(reason, f"{sentence} {detail}".strip())


def shown(outcome: Outcome, masker: Masker) -> Outcome:
    """As people are told of it: errors may repeat what they were given."""
    if outcome.sentence == RULES[outcome.reason].sentence:
        return outcome
    return replace(outcome, sentence=masker.text(outcome.sentence))


def superseded() -> Outcome:
    """Another attempt is the one that counts."""
    return Outcome(Reason.LEASE_LOST, RULES[Reason.LEASE_LOST].sentence, superseded=True)


def delivered(results: Results) -> Outcome:
    """The outcome that `_results` tell of."""
    said = Reason(results.reason) if results.reason in set(Reason) else Reason.SCRIPT_FAILED
    reason = Reason.COMPLETED if results.ok else said
    sentence = results.sentence or RULES[reason].sentence
    return Outcome(reason, sentence, results.exit_code, results.signal, results.transient)


BACKOFF_FIRST, BACKOFF_MOST = 5.0, 600.0


def backoff(attempts: int) -> float:
    """Seconds to wait before delivery number `attempts` + 2: 5, 10, 20 ... at most 600."""
    return float(min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** min(attempts, 20)))
