"""Keeps the experiment records current (INTERFACE section 6).

What happens in quick succession is written once: an experiment that is over in a blink costs one or two writes.
The end is waited for, the rest is not.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, assert_never

from studio_runner.errors import Reason, StudioRunnerError
from studio_runner.reports.base import Checkpointed, Ended, Event, StageEntered, Started, Subject
from studio_runner.reports.records import OWN, Records

log = logging.getLogger(__name__)

Changes = dict[str, Any]


class Recorder:
    """A reporter; one writer at a time for each experiment."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._pending: dict[str, Changes] = {}
        self._writers: dict[str, asyncio.Task[None]] = {}

    async def report(self, event: Event) -> None:
        if (changes := changes_for(event)) is None:
            return
        key = event.subject.key
        self._pending[key] = _merged(self._pending.get(key, {}), changes)
        if key not in self._writers:
            writing = self._write(key, event.subject.experiment)
            self._writers[key] = asyncio.create_task(writing, name=f"record {key}")
        if isinstance(event, Ended):
            await self._writers[key]

    async def _write(self, key: str, experiment: Mapping[str, Any]) -> None:
        try:
            while changes := self._pending.pop(key, None):
                await self._records.update(key, changes, otherwise=experiment)
        except (StudioRunnerError, OSError) as error:
            self._pending.pop(key, None)
            log.warning("the record of experiment %s could not be written: %s", key, error)
        finally:
            del self._writers[key]


def changes_for(event: Event) -> Changes | None:
    """What an event changes in the record; None when that is somebody else's business."""
    match event:
        case Started():
            return {
                "status": "running",
                "time_started": event.at,
                "time_finished": None,
                OWN: {**_whereabouts(event.subject), "stage": "prepare", "reason": None, "sentence": None},
            }
        case StageEntered():
            return {OWN: {"stage": event.stage}}
        case Checkpointed():
            return {"time_last_checkpoint": event.at}
        case Ended():
            return None if event.reason is Reason.LEASE_LOST else _ended(event)
    assert_never(event)


def _whereabouts(subject: Subject) -> Changes:
    return {
        "queue": subject.queue,
        "host": subject.host,
        "attempt": subject.number,
        "directory": str(subject.directory) if subject.directory else None,
    }


def _ended(event: Ended) -> Changes:
    own = {
        **_whereabouts(event.subject),
        "directory": None,
        "stage": None,
        "reason": event.reason.value,
        "sentence": event.sentence,
        "exit_code": event.exit_code,
        "signal": event.signal,
        "peak_memory": event.peak_memory,
        "cpu_seconds": event.cpu_seconds,
    }
    if not event.final:
        return {"status": "waiting", OWN: own}
    status = "stopped" if event.reason is Reason.STOPPED else "finished"
    return {"status": status, "time_finished": event.at, OWN: own}


def _merged(old: Changes, new: Changes) -> Changes:
    return {**old, **new, OWN: {**old.get(OWN, {}), **new.get(OWN, {})}}
