"""Keeps this runner's own experiment records current (INTERFACE section 6).

What happens in quick succession is written once: an experiment that is over in a blink costs one or two writes.
The end is waited for, the rest is not.
"""

import logging

from studio_runner.errors import StudioRunnerError
from studio_runner.messages.masking import Secrets
from studio_runner.reports.base import Ended, Event, Subject
from studio_runner.reports.progress import Changes, begun
from studio_runner.reports.records import Records
from studio_runner.reports.writer import Writer, put

log = logging.getLogger(__name__)


class Recorder:
    """A reporter with one writer for each attempt."""

    def __init__(self, records: Records, secrets: Secrets) -> None:
        self._records, self._secrets = records, secrets
        self._writers: dict[tuple[str, int], Writer] = {}

    async def report(self, event: Event) -> None:
        subject = event.subject
        which = (subject.key, subject.number)
        writer = self._writers.get(which) or Writer(subject, lambda changes: self._put(subject, changes))
        writer.add(event)
        if isinstance(event, Ended):
            self._writers.pop(which, None)
            await writer.write()
        else:
            self._writers[which] = writer
            writer.write()

    async def _put(self, subject: Subject, changes: Changes) -> None:
        try:
            await put(self._records, changes, subject, self._secrets.masker.value(begun(subject)))
        except (StudioRunnerError, OSError) as error:
            log.warning("the record of experiment %s could not be written: %s", subject.key, error)
