"""Every error the project raises, the reasons an experiment can end with, and the exit codes.

An error message says what happened, to what, and where; `hint` says what to do about it.
A script that exits non-zero is an outcome, not an exception.
"""

from enum import IntEnum, StrEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What the command line returns (`run` and `exec` return the script's own code instead)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    INFRASTRUCTURE = 3


class Reason(StrEnum):
    """Why an attempt ended. What each settles as is in `runner.outcome`."""

    COMPLETED = "completed"
    SCRIPT_FAILED = "script_failed"
    TIMED_OUT = "timed_out"
    EXPIRED = "expired"
    STOPPED = "stopped"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_EXCEEDED = "disk_exceeded"
    PROCESSES_EXCEEDED = "processes_exceeded"
    ENVIRONMENT_FAILED = "environment_failed"
    ARTIFACT_MISSING = "artifact_missing"
    ARTIFACT_INVALID = "artifact_invalid"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    INVALID_MESSAGE = "invalid_message"
    UNAUTHORISED = "unauthorised"
    LEASE_LOST = "lease_lost"
    DRAINED = "drained"
    SYSTEM_ERROR = "system_error"


class StudioRunnerError(Exception):
    """Base of all errors that the project raises on purpose."""

    exit_code: ClassVar[ExitCode] = ExitCode.INFRASTRUCTURE

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(StudioRunnerError):
    """The command line was given something it cannot use."""

    exit_code = ExitCode.USAGE


class ConfigError(StudioRunnerError):
    """A setting has a value that cannot be used; the message says which, from where, and what is accepted."""

    exit_code = ExitCode.USAGE


class KeyFileError(ConfigError):
    """A key that cannot be used. Where keys are parsed the message completes "...: " after the file's name."""


class KeyLockedError(KeyFileError):
    """A private key that is encrypted, and there is no passphrase for it."""


class KeyUnsettledError(StudioRunnerError):
    """A key that cannot be used at this moment, and probably soon: it is just being written."""


class BrokerError(StudioRunnerError):
    """A queue could not be read or written."""


class LeaseLostError(BrokerError):
    """Somebody else owns the delivery now; nothing more may be published for it."""


class SupersededError(LeaseLostError):
    """Another attempt at the experiment is the one that counts: its runner has a message of its own."""


class QueueDeletedError(LeaseLostError):
    """The delivery's queue was deleted: its experiments are given up, and nobody else will run them."""


class NotFoundError(StudioRunnerError):
    """The experiment, queue or file that a person named does not exist."""

    exit_code = ExitCode.FAILED


class ExperimentError(StudioRunnerError):
    """Ends an attempt; `reason` says with what outcome."""

    exit_code = ExitCode.FAILED
    reason: ClassVar[Reason] = Reason.SYSTEM_ERROR


class InvalidMessageError(ExperimentError):
    """A request message that cannot be read.

    `path` is the JSON path of the offending value (`$.experiment.args[2]`), `found` what stands there
    (shortened, never a credential), `accepted` what would have been accepted.
    """

    reason = Reason.INVALID_MESSAGE

    def __init__(self, path: str, found: str, accepted: str) -> None:
        super().__init__(f"{path}: found {found}, accepted is {accepted}")
        self.path, self.found, self.accepted = path, found, accepted


class RejectedError(ExperimentError):
    """A message that this runner must not run: not signed as its queue demands, not for its key, damaged, or played
    again. Nothing in it is believed, so that nobody is told but the operator."""

    reason = Reason.UNAUTHORISED


class ArtifactMissingError(ExperimentError):
    """An immutable artifact is not in its store."""

    reason = Reason.ARTIFACT_MISSING


class ArtifactInvalidError(ExperimentError):
    """An artifact is there and cannot be used: damaged, not an archive, or leading out of its directory."""

    reason = Reason.ARTIFACT_INVALID


class DiskExceededError(ExperimentError):
    """The experiment needs more disk than it asked for (`hdd`)."""

    reason = Reason.DISK_EXCEEDED


class EnvironmentFailedError(ExperimentError):
    """The Python environment cannot be had; the installer's own words are in the experiment's output.

    `transient` tells that the same request may well succeed later or elsewhere.
    """

    reason = Reason.ENVIRONMENT_FAILED
    transient: ClassVar[bool] = False


class EnvironmentUnavailableError(EnvironmentFailedError):
    """The Python environment cannot be had now: no answer from the package index, or no room on the disk."""

    transient = True


class StorageUnavailableError(ExperimentError):
    """The store did not answer, or refused for a reason that may pass (also: this machine's disk is full)."""

    reason = Reason.STORAGE_UNAVAILABLE


class UnauthorisedError(ExperimentError):
    """The store or the signature check refused the sender's credentials."""

    reason = Reason.UNAUTHORISED


class ObjectNotFoundError(StudioRunnerError):
    """No object of that key is in the store."""


class PreconditionFailedError(StudioRunnerError):
    """A conditional put found another version of the object than the one it named."""
