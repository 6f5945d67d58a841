"""Reports on experiments as they go to response queues (INTERFACE section 8): the protobuf message `Report` of the
package `dev.studio_go_runner.reports`, in the proto3 JSON mapping.

Written as the mapping has it. Read as its parsers do: names in their original spelling, numbers for enumerations
and unknown fields are taken as well.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, TypeVar

from studio_runner.errors import InvalidMessageError
from studio_runner.messages.jsontext import read_json

LARGEST = 4 << 20
"""Bytes of a report in clear text."""

_CODES = range(-(1 << 31), 1 << 31)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_UPPER = re.compile("[A-Z]")


class Severity(IntEnum):
    """Of a log entry (`LogSeverity`)."""

    DEFAULT = 0
    TRACE = 100
    DEBUG = 200
    INFO = 300
    WARNING = 400
    ERROR = 500
    FATAL = 600


class State(IntEnum):
    """Of an attempt (`TaskState`)."""

    PRESTART = 0
    STARTED = 1
    STOPPING = 2
    FAILED = 20
    SUCCESS = 21


@dataclass(frozen=True)
class LogEntry:
    """Something that the runner did."""

    message: str
    severity: Severity = Severity.DEFAULT
    fields: Mapping[str, str] = field(default_factory=dict)
    time: datetime | None = None


@dataclass(frozen=True)
class Failure:
    """Why an attempt did not succeed (`Progress.Error`)."""

    message: str
    code: int = 0


@dataclass(frozen=True)
class Progress:
    """A step of an attempt: another state, or (`json`) a line of JSON that its script printed."""

    state: State = State.PRESTART
    json: str | None = None
    error: Failure | None = None
    time: datetime | None = None


@dataclass(frozen=True)
class Foreign:
    """A payload of a type that only sender and receiver know (`google.protobuf.Any`)."""

    document: Mapping[str, Any]


Payload = LogEntry | Progress | Foreign | str


@dataclass(frozen=True)
class Report:
    """One report. `unique_id` is the same in all reports of one attempt; `executor_id` is the runner's host."""

    experiment_id: str
    unique_id: str
    executor_id: str
    payload: Payload | None
    time: datetime | None = None

    @property
    def document(self) -> dict[str, Any]:
        """In the JSON mapping."""
        return {
            **_time(self.time),
            "experimentId": self.experiment_id,
            "uniqueId": self.unique_id,
            "executorId": self.executor_id,
            **_payload(self.payload),
        }


def moment(seconds: float) -> datetime:
    """Unix time as reports have it."""
    return datetime.fromtimestamp(seconds, UTC)


# -- writing ------------------------------------------------------------------------------------------------------


def write_report(report: Report) -> bytes:
    """Its JSON. Characters that protobuf has in no string are replaced, others written as they are: in it a line of
    JSON becomes at most twice as long."""
    return json.dumps(_clean(report.document), separators=(",", ":"), ensure_ascii=False).encode()


def _payload(payload: Payload | None) -> dict[str, Any]:
    match payload:
        case LogEntry():
            entry = {"severity": _spelled(payload.severity), "message": payload.message}
            return {"logging": {**_time(payload.time), **entry, "fields": dict(payload.fields)}}
        case Progress():
            return {"progress": _progress(payload)}
        case Foreign():
            return {"protoAny": dict(payload.document)}
        case str():
            return {"text": payload}
        case None:
            return {}


def _progress(progress: Progress) -> dict[str, Any]:
    line = {} if progress.json is None else {"json": progress.json}
    error = {"error": {"msg": progress.error.message, "code": progress.error.code}} if progress.error else {}
    state = {"state": _spelled(progress.state)} if progress.state else {}  # the mapping leaves out zeros
    return {**_time(progress.time), **line, **state, **error}


def _time(moment: datetime | None) -> dict[str, str]:
    if moment is None:
        return {}
    return {"time": moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")}


def _spelled(value: Severity | State) -> str:
    return value.name.capitalize()


def _clean(value: Any) -> Any:
    """Without halves of surrogate pairs."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {_clean(name): _clean(inner) for name, inner in value.items()}
    return [_clean(inner) for inner in value] if isinstance(value, list) else value


# -- reading ------------------------------------------------------------------------------------------------------

Number = TypeVar("Number", Severity, State)


def read_report(content: bytes) -> Report:
    """InvalidMessageError for what is no report."""
    found = _object(read_json(content, LARGEST), "$")
    return Report(
        experiment_id=_text(found, "experimentId", "$"),
        unique_id=_text(found, "uniqueId", "$"),
        executor_id=_text(found, "executorId", "$"),
        payload=_read_payload(found),
        time=_moment(found, "$"),
    )


def _read_payload(found: Mapping[str, Any]) -> Payload | None:
    names = [name for name in ("protoAny", "text", "logging", "progress") if _get(found, name) is not None]
    if len(names) > 1:
        raise InvalidMessageError("$", " and ".join(names), "one of them")
    match names:
        case ["protoAny"]:
            return Foreign(_inner(found, "protoAny", "$"))
        case ["text"]:
            return _text(found, "text", "$")
        case ["logging"]:
            return _read_entry(_inner(found, "logging", "$"), "$.logging")
        case ["progress"]:
            return _read_progress(_inner(found, "progress", "$"), "$.progress")
    return None


def _read_entry(found: Mapping[str, Any], path: str) -> LogEntry:
    fields = _inner(found, "fields", path)
    return LogEntry(
        message=_text(found, "message", path),
        severity=_number(Severity, _get(found, "severity"), f"{path}.severity"),
        fields={name: _text(fields, name, f"{path}.fields") for name in fields},
        time=_moment(found, path),
    )


def _read_progress(found: Mapping[str, Any], path: str) -> Progress:
    has_line, has_error = _get(found, "json") is not None, _get(found, "error") is not None
    return Progress(
        state=_number(State, _get(found, "state"), f"{path}.state"),
        json=_text(found, "json", path) if has_line else None,
        error=_read_failure(_inner(found, "error", path), f"{path}.error") if has_error else None,
        time=_moment(found, path),
    )


def _read_failure(found: Mapping[str, Any], path: str) -> Failure:
    code = _whole(_get(found, "code"))
    if code is None or code not in _CODES:
        raise InvalidMessageError(f"{path}.code", repr(_get(found, "code"))[:40], "a whole number of 32 bits")
    return Failure(_text(found, "msg", path), code)


def _number(kind: type[Number], value: Any, path: str) -> Number:
    """By name or number; one that a later version may have is the default."""
    if isinstance(value, str) and value.upper() in kind.__members__:
        return kind[value.upper()]
    number = _whole(value)
    if number is None:
        if not isinstance(value, str):
            raise InvalidMessageError(path, repr(value)[:40], "a name or number")
        number = 0
    return kind(number) if number in list(kind) else kind(0)


def _whole(value: Any) -> int | None:
    """Whole numbers may also be text, or have a fraction of nothing."""
    if value is None:
        return 0
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else 0.5
        return int(number) if number.is_integer() else None
    except (ValueError, OverflowError):
        return None


def _moment(found: Mapping[str, Any], path: str) -> datetime | None:
    value = _get(found, "time")
    if value is None:
        return None
    try:
        if _RFC3339.fullmatch(value):
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        pass
    raise InvalidMessageError(f"{path}.time", repr(value)[:40], "a time such as 2026-01-31T12:00:00.5Z")


def _text(found: Mapping[str, Any], name: str, path: str) -> str:
    value = _get(found, name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidMessageError(f"{path}.{name}", repr(value)[:40], "text")
    return value


def _inner(found: Mapping[str, Any], name: str, path: str) -> Mapping[str, Any]:
    value = _get(found, name)
    return {} if value is None else _object(value, f"{path}.{name}")


def _object(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidMessageError(path, repr(value)[:40], "an object")
    return value


def _get(found: Mapping[str, Any], name: str) -> Any:
    """By the name in JSON or the original one (`experimentId`, `experiment_id`)."""
    value = found.get(name)
    return found.get(_UPPER.sub(lambda match: f"_{match[0].lower()}", name)) if value is None else value
