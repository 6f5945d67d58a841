"""Keeps the experiment records current (INTERFACE section 6).

What happens in quick succession is written once: an experiment that is over in a blink costs one or two writes.
The end is waited for, the rest is not.
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, assert_never

from studio_runner.errors import Reason, StudioRunnerError
from studio_runner.reports.base import Checkpointed, Ended, Event, StageEntered, Started, Subject
from studio_runner.reports.records import OWN, Records

log = logging.getLogger(__name__)

Changes = dict[str, Any]


PATIENCE = 0.1
"""Seconds that a change waits for the next one."""


@dataclass
class _Writer:
    """What is still to be written of one experiment."""

    pending: Changes
    hurry: asyncio.Event
    task: "asyncio.Task[None] | None" = None


class Recorder:
    """A reporter; one writer at a time for each experiment."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._writers: dict[str, _Writer] = {}

    async def report(self, event: Event) -> None:
        if (changes := changes_for(event)) is None:
            return
        subject = event.subject
        writer = self._writers.get(subject.key)
        if writer is None:
            writer = self._writers[subject.key] = _Writer({}, asyncio.Event())
            writer.task = asyncio.create_task(self._write(subject, writer), name=f"record {subject.key}")
        writer.pending = _merged(writer.pending, changes)
        if isinstance(event, Ended) and writer.task:
            writer.hurry.set()
            await writer.task

    async def _write(self, subject: Subject, writer: _Writer) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await writer.hurry.wait()
        try:
            while changes := writer.pending:
                writer.pending = {}
                await self._records.update(subject.key, changes, otherwise=subject.experiment)
        except (StudioRunnerError, OSError) as error:
            log.warning("the record of experiment %s could not be written: %s", subject.key, error)
        finally:
            del self._writers[subject.key]


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
