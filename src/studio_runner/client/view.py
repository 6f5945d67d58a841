"""Experiments as people look at them: a line each, or everything about one."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from studio_runner.client.results import caught_up
from studio_runner.messages.secrets import shown_words, without_secrets
from studio_runner.messages.units import format_duration, format_size
from studio_runner.reports.records import Record, quantity

if TYPE_CHECKING:  # what looks into stores reads messages, and a list of experiments does not
    from studio_runner.client.artifact_files import Stored
    from studio_runner.client.holdings import Holdings

_AT_ONCE = 16
"""Experiments whose results are asked for at the same time."""

_TIMES = {
    "time_added": "submitted",
    "time_started": "started",
    "time_last_checkpoint": "checkpoint",
    "time_finished": "finished",
}


@dataclass(frozen=True)
class Summary:
    """One experiment in a line. `age` and `duration` in seconds, None where that is not known."""

    key: str
    status: str
    reason: str | None
    stage: str | None
    queue: str | None
    project: str | None
    age: float | None
    duration: float | None
    script: str

    def document(self) -> dict[str, Any]:
        return asdict(self)


async def summaries(holdings: "Holdings", wanted: Mapping[str, str | None], now: float) -> list[Summary]:
    """Those whose fields are as wanted (None: any), newest first."""
    records = await holdings.records.list()
    found = [summary(record, now) for record in await _caught_up(records, holdings)]
    return [
        one for one in found if all(value is None or getattr(one, name) == value for name, value in wanted.items())
    ]


async def _caught_up(records: Sequence[Record], holdings: "Holdings") -> list[Record]:
    few = asyncio.Semaphore(_AT_ONCE)

    async def one(record: Record) -> Record:
        async with few:
            return await caught_up(record, holdings)

    return list(await asyncio.gather(*map(one, records)))


def summary(record: Record, now: float) -> Summary:
    added, started, finished = (record.time(f"time_{name}") for name in ("added", "started", "finished"))
    project = record.document.get("project")
    return Summary(
        key=record.key,
        status=status(record),
        reason=record.reason,
        stage=record.own.get("stage"),
        queue=record.own.get("queue"),
        project=str(project) if project else None,
        age=None if added is None else max(0.0, now - added),
        duration=None if started is None else max(0.0, (finished or now) - started),
        script=script(record),
    )


def status(record: Record) -> str:
    """The record's status; `stopping` while a stop is asked for and the experiment is not over."""
    return "stopping" if record.status == "stopped" and not record.over else record.status


def script(record: Record) -> str:
    """The script with its arguments, as one would type it."""
    args = record.document.get("args")
    words = shown_words([str(word) for word in args]) if isinstance(args, list) else []
    return " ".join([str(record.document.get("filename") or ""), *words]).strip()


@dataclass(frozen=True)
class Details:
    """Everything about one experiment."""

    record: Record
    artifacts: "Sequence[Stored]"

    def document(self) -> dict[str, Any]:
        """For programs: the record, its artifacts with their sizes."""
        sizes = {one.label: {**asdict(one)} for one in self.artifacts}
        shown: dict[str, Any] = without_secrets(self.record.document)  # other clients leave theirs in records
        return {**shown, "status": status(self.record), "stored": sizes}

    def attempts(self) -> list[tuple[object, ...]]:
        """Number, host, start, end and reason of each attempt, as far as the record tells of them."""
        found = self.record.own.get("attempts")
        entries = [entry for entry in found if isinstance(entry, Mapping)] if isinstance(found, list) else []
        return [
            (entry.get("number"), entry.get("host"), _time(entry, "started"), _time(entry, "ended"),
             entry.get("reason") or ("its runner died" if entry is not entries[-1] else ""))
            for entry in entries
        ]  # fmt: skip

    def fields(self, now: float) -> dict[str, str]:
        """For people: names and values, what is not known left out."""
        document, own = self.record.document, self.record.own
        line = summary(self.record, now)
        requirements, resources = document.get("pythonenv"), document.get("resources_needed")
        memory, cpu = quantity(own.get("peak_memory")), quantity(own.get("cpu_seconds"))
        found: dict[str, Any] = {
            "key": line.key,
            "status": f"{line.status} ({line.stage})" if line.stage else line.status,
            "reason": line.reason,
            "what happened": own.get("sentence") or _not_begun(line.status, own),
            "exit": _exit(own),
            "script": line.script,
            "python": document.get("pythonver"),
            "requirements": len(requirements) if isinstance(requirements, list) else None,
            "project": line.project,
            "queue": line.queue,
            "message": own.get("sealed"),
            "host": own.get("host"),
            "attempt": own.get("attempt"),
            "directory": own.get("directory"),
            "resources": _listed(resources) if isinstance(resources, Mapping) else resources,
            "reserved": _reserved(self.record),
            "limit": document.get("max_duration"),
            **{label: _moment(self.record.time(name)) for name, label in _TIMES.items()},
            "duration": None if line.duration is None else format_duration(line.duration),
            "peak memory": format_size(int(memory)) if memory else None,
            "cpu time": format_duration(cpu) if cpu else None,
        }
        return {name: str(value) for name, value in found.items() if value not in (None, "")}


def _not_begun(status: str, own: Mapping[str, Any]) -> str | None:
    """Of a message that runners reject nobody but their operator is told."""
    if status not in ("waiting", "stopping") or own.get("attempts"):
        return None
    return "No runner has told of it yet; docs/how-to/follow-and-stop.md says what to do if that stays so."


def _time(entry: Mapping[str, Any], name: str) -> str | None:
    value = entry.get(name)
    return _moment(value) if isinstance(value, int | float) else None


def _exit(own: Mapping[str, Any]) -> str | None:
    if own.get("signal") is not None:
        return f"signal {own['signal']}"
    return None if own.get("exit_code") is None else f"code {own['exit_code']}"


def _listed(resources: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in resources.items() if value)


def _reserved(record: Record) -> str | None:
    """What the last attempt had of its machine."""
    found = record.own.get("attempts")
    last = found[-1] if isinstance(found, list) and found else None
    share = last.get("reserved") if isinstance(last, Mapping) else None
    if not isinstance(share, Mapping):
        return None
    words = [f"{share.get('cores')} core{'' if share.get('cores') == 1 else 's'}"]
    words += [
        f"{format_size(int(amount))} {kind}" for kind in ("memory", "disk") if (amount := quantity(share.get(kind)))
    ]
    listed = share.get("gpus")
    gpus = [gpu for gpu in listed if isinstance(gpu, Mapping)] if isinstance(listed, list) else []
    part = f"1/{share['gpu_fraction']} of " if share.get("gpu_fraction") else ""
    return ", ".join([*words, *(f"{part}{gpu.get('name')} ({gpu.get('uuid')})" for gpu in gpus)])


def _moment(time: float | None) -> str | None:
    """None also for a time that no calendar has: a record holds what its sender wrote."""
    if time is None:
        return None
    try:
        return datetime.fromtimestamp(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return None
