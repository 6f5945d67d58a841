"""`_results.json`, the runner's last word on an experiment, and `status.json`, by which a user asks for a stop
(INTERFACE section 2)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from studio_runner.errors import InvalidMessageError, Reason
from studio_runner.messages.jsontext import read_json
from studio_runner.messages.refusal import describe
from studio_runner.messages.units import CEILING

DOCUMENT_LIMIT = 16 << 20
"""Bytes of the longest document that is read."""

OK = "ok"

_T = TypeVar("_T")


@dataclass(frozen=True)
class Results:
    """What `_results.json` says. Other runners write the first four fields alone. Times are Unix times; `artifacts`
    is label to the name of its object; at most one of `exit_code` and `signal` is set. `transient`: what it
    failed of may pass."""

    exit_msg: str
    experiment_id: str
    host: str
    artifacts: Mapping[str, str]
    reason: str | None
    sentence: str | None
    exit_code: int | None
    signal: int | None
    attempt: int | None
    time_started: float | None
    time_finished: float | None
    hidden: Mapping[str, Any] | None = None
    transient: bool = False

    @property
    def ok(self) -> bool:
        return self.exit_msg == OK


class End(Protocol):
    """How an attempt ended."""

    @property
    def reason(self) -> Reason: ...
    @property
    def sentence(self) -> str: ...
    @property
    def exit_code(self) -> int | None: ...
    @property
    def signal(self) -> int | None: ...
    @property
    def transient(self) -> bool: ...


@dataclass(frozen=True)
class Attempted:
    """The attempt that ended: where it ran, when in Unix time, and where secrets are in its output."""

    host: str
    number: int
    started: float
    finished: float
    hidden: Mapping[str, Any] | None = None


def results_document(
    experiment_id: str, end: End, attempted: Attempted, artifacts: Mapping[str, str]
) -> dict[str, Any]:
    """The content of `_results.json`; `artifacts` is label to the name of its object."""
    return {
        "exit_msg": _exit_message(end),
        "experiment_id": experiment_id,
        "host": attempted.host,
        "artifacts": {label: {"name": name} for label, name in artifacts.items()},
        "reason": end.reason.value,
        "sentence": end.sentence,
        "exit_code": end.exit_code,
        "signal": end.signal,
        "attempt": attempted.number,
        "time_started": attempted.started,
        "time_finished": attempted.finished,
        **({"hidden": attempted.hidden} if attempted.hidden else {}),
        **({"transient": True} if end.transient else {}),
    }


def _exit_message(end: End) -> str:
    if end.reason is Reason.COMPLETED:
        return OK
    if end.signal is not None:
        return f"{end.reason.value} (signal {end.signal}): {end.sentence}"
    if end.exit_code is not None:
        return f"{end.reason.value} (exit code {end.exit_code}): {end.sentence}"
    return f"{end.reason.value}: {end.sentence}"


def parse_results(body: bytes) -> Results:
    """Read `_results.json`; InvalidMessageError when it is no such document. Fields of other types than ours count
    as missing."""
    document = read_json(body, DOCUMENT_LIMIT)
    if not isinstance(document, dict):
        raise InvalidMessageError("$", describe(document), "an object")
    message = document.get("exit_msg")
    if not isinstance(message, str):
        raise InvalidMessageError("$.exit_msg", describe(message), "a string")
    return Results(
        exit_msg=message,
        experiment_id=_field(document, "experiment_id", str) or "",
        host=_field(document, "host", str) or "",
        artifacts=_names(document.get("artifacts")),
        reason=_field(document, "reason", str),
        sentence=_field(document, "sentence", str),
        exit_code=_field(document, "exit_code", int),
        signal=_field(document, "signal", int),
        attempt=_field(document, "attempt", int),
        time_started=_time(document, "time_started"),
        time_finished=_time(document, "time_finished"),
        hidden=_field(document, "hidden", dict),
        transient=_field(document, "transient", bool) or False,
    )


def _field(document: Mapping[str, Any], name: str, kind: type[_T]) -> _T | None:
    value = document.get(name)
    return value if type(value) is kind else None


def _time(document: Mapping[str, Any], name: str) -> float | None:
    whole = _field(document, name, int)
    if whole is None:
        return _field(document, name, float)
    return float(whole) if abs(whole) < CEILING else None


def _names(artifacts: Any) -> dict[str, str]:
    if not isinstance(artifacts, dict):
        return {}
    return {
        label: _field(entry, "name", str) or "" for label, entry in artifacts.items() if isinstance(entry, dict)
    }


def stop_requested(status_json: bytes) -> bool:
    """True when `status.json` says stopped. What cannot be read asks for nothing."""
    try:
        status = json.loads(status_json)
    except (ValueError, RecursionError):
        return False
    return isinstance(status, dict) and str(status.get("status", "")).strip().lower() == "stopped"
