"""What an experiment's `_results` say, where its record cannot: a record is written as well as its runner can, and
`_results` always."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from studio_runner.client.holdings import Holdings
from studio_runner.errors import InvalidMessageError, NotFoundError, ObjectNotFoundError, Reason
from studio_runner.reports.records import OWN, Record

if TYPE_CHECKING:
    from studio_runner.messages.results import Results

RESULTS = "_results"


async def current(holdings: Holdings, key: str) -> Record:
    """The record as it is now; NotFoundError when there is none."""
    record = await holdings.records.read(key)
    if record is None:
        raise NotFoundError(f"The record of experiment {key} is gone")
    return await caught_up(record, holdings)


async def caught_up(record: Record, holdings: Holdings) -> Record:
    """The record, brought up to what `_results` say where those are across the network and know more."""
    if record.over or not _is_remote(record):
        return record
    results = await _results(record, holdings)
    if results is None or not _is_newer(results, record):
        return record
    await holdings.records.update(record.key, _changes(results))
    return await holdings.records.read(record.key) or record


def _is_remote(record: Record) -> bool:
    artifacts = record.document.get("artifacts")
    artifact = artifacts.get(RESULTS) if isinstance(artifacts, Mapping) else None
    address = artifact.get("qualified") if isinstance(artifact, Mapping) else None
    return isinstance(address, str) and not address.startswith("file:")


async def _results(record: Record, holdings: Holdings) -> "Results | None":
    from studio_runner.client.artifact_files import read_document  # noqa: PLC0415
    from studio_runner.messages.results import parse_results  # noqa: PLC0415

    try:
        return parse_results(await read_document(record, RESULTS, holdings.opener))
    except (ObjectNotFoundError, InvalidMessageError):
        return None


def _is_newer(results: "Results", record: Record) -> bool:
    """Not what an earlier try under the same key has left."""
    began = record.time("time_started") or record.time("time_added") or 0.0
    return results.time_finished is None or results.time_finished >= began


def _changes(results: "Results") -> dict[str, Any]:
    reason = results.reason or (Reason.COMPLETED if results.ok else Reason.SCRIPT_FAILED).value
    own = {
        "host": results.host,
        "attempt": results.attempt,
        "stage": None,
        "reason": reason,
        "sentence": results.sentence or results.exit_msg,
        "exit_code": results.exit_code,
        "signal": results.signal,
        "hidden": results.hidden,
    }
    times = {"time_started": results.time_started, "time_finished": results.time_finished}
    return {
        "status": "stopped" if reason == Reason.STOPPED else "finished",
        **{name: time for name, time in times.items() if time is not None},
        OWN: {name: value for name, value in own.items() if value is not None or name == "stage"},
    }
