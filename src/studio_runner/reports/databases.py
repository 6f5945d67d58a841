"""Whose records an experiment's record belongs to: this runner's own always, and those of its sender where the
message names a database that can be opened from here (`$.config.database`)."""

import asyncio
import hashlib
import json
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from studio_runner.config.reach import ANYWHERE, Reach
from studio_runner.errors import StudioRunnerError
from studio_runner.messages.request import StoreConfig
from studio_runner.messages.secrets import mask_urls
from studio_runner.reports.base import Subject
from studio_runner.reports.documents import DirectoryDocuments, Documents
from studio_runner.reports.progress import stop_requested
from studio_runner.reports.records import Records

log = logging.getLogger(__name__)

Open = Callable[[StoreConfig, Mapping[str, str]], Documents | None]
"""From a database section and the variables of the message (`config.env`) to the documents there. None: this runner
knows no such kind of database. StudioRunnerError: it cannot be opened with what the message says."""

AT_ONCE = 8
"""Writes to one database at a time."""
_MOST = 256
"""Databases that are kept open; a sender has one or two."""
_DEFAULT_BUCKET = "studioml-meta"
_AFTER_TROUBLE = 10.0
"""Seconds until a place that could not be asked for a stop is asked again."""


class Database:
    """The records of one sender; says once when they cannot be written, and once when they can again."""

    def __init__(self, name: str, documents: Documents) -> None:
        self.name = name
        self.records = Records(documents)
        self.turns = asyncio.Semaphore(AT_ONCE)
        self._failing_since: float | None = None

    def is_in_trouble(self, seconds: float) -> bool:
        """Whether nothing could be written for longer than so many seconds."""
        return self._failing_since is not None and time.monotonic() - self._failing_since > seconds

    def failed(self, error: Exception) -> None:
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            log.warning(
                "The experiment records in %s cannot be written: %s. The experiments run all the same, this runner "
                "keeps its own records of them, and goes on trying.",
                self.name,
                _why(error),
            )

    def worked(self) -> None:
        if self._failing_since is not None:
            self._failing_since = None
            log.info("The experiment records in %s can be written again", self.name)


class Databases:
    """The records of this runner, in `root`, and those of the senders of its experiments; `reach` is where local
    ones may be."""

    def __init__(
        self, root: Path, open_documents: Open = lambda _section, _variables: None, reach: Reach = ANYWHERE
    ) -> None:
        self._root, self._open, self._reach = root, open_documents, reach
        self.default = Records.in_directory(root)
        self._opened: OrderedDict[bytes, Database | None] = OrderedDict()

    def of(self, subject: Subject) -> Database | None:
        """The sender's; None when the message names none that can be opened, or this runner's own."""
        config = subject.config
        if config is None or config.database is None:
            return None
        identity = _identity(config.database, config.env)
        if identity not in self._opened:
            self._opened[identity] = self._database(config.database, config.env)
            if len(self._opened) > _MOST:
                self._opened.popitem(last=False)
        self._opened.move_to_end(identity)
        return self._opened[identity]

    def stop_request(self, subject: Subject) -> Callable[[], Awaitable[bool]]:
        """Tells whether somebody set the experiment's record to `stopped`: a cheap question, to be asked often."""
        sender = self.of(subject)
        places = [self.default, *([sender.records] if sender else [])]
        return StopRequest(subject, places).requested

    def _database(self, section: StoreConfig, variables: Mapping[str, str]) -> Database | None:
        name = _name(section)
        try:
            documents = self._local(section) if _kind(section) == "local" else self._open(section, variables)
        except StudioRunnerError as error:
            log.warning(
                "The experiment records in %s cannot be opened: %s. The experiments run all the same, and this "
                "runner keeps its own records of them.",
                name,
                _why(error),
            )
            return None
        if documents is None:
            log.info("Experiment records are not kept in %s: this runner's own say it all", name)
            return None
        return Database(name, documents)

    def _local(self, section: StoreConfig) -> Documents | None:
        """A directory of this machine. The message may come from another one, where that path is something else."""
        endpoint = os.path.expanduser(section.endpoint or "~")  # noqa: PTH111 - a home that nobody knows is no error
        bucket = section.bucket or _DEFAULT_BUCKET
        if not os.path.isabs(endpoint) or ".." in Path(bucket).parts or Path(bucket).is_absolute():  # noqa: PTH117
            return None
        root = Path(endpoint) / bucket
        if not self._reach.allows(root) or not Path(endpoint).is_dir() or root.resolve() == self._root.resolve():
            return None
        return DirectoryDocuments(root)


class StopRequest:
    """Looks for the status `stopped` in an experiment's records; reads a record only when it has changed."""

    def __init__(self, subject: Subject, places: Sequence[Records]) -> None:
        self._subject = subject
        self._looks = [_Look(records) for records in places]

    async def requested(self) -> bool:
        """A place that cannot be asked counts as saying no; it is asked again some seconds later."""
        for look in self._looks:
            if await look.requested(self._subject):
                return True
        return False


class _Look:
    """What one place said last."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._version: str | None = None
        self._not_before = 0.0

    async def requested(self, subject: Subject) -> bool:
        if time.monotonic() < self._not_before:
            return False
        try:
            version = await self._records.version(subject.key)
            if version is None or version == self._version:
                return False
            record = await self._records.read(subject.key)
        except (StudioRunnerError, OSError) as error:
            log.debug("the record of experiment %s cannot be asked for a stop: %s", subject.key, error)
            self._not_before = time.monotonic() + _AFTER_TROUBLE
            return False
        self._version = version
        return record is not None and stop_requested(record.document, subject)


def _kind(section: StoreConfig) -> str:
    return (section.type or "").lower()


def _name(section: StoreConfig) -> str:
    place = "/".join(part.rstrip("/") for part in (section.endpoint, section.bucket) if part)
    return f"the {_kind(section) or 'unnamed'} database {mask_urls(place)}".strip()


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "there is no answer"
    hint = error.hint if isinstance(error, StudioRunnerError) else None
    return mask_urls(f"{error} ({hint})" if hint else str(error))


def _identity(section: StoreConfig, variables: Mapping[str, str]) -> bytes:
    """Of a database with what opens it; nothing can be learnt from it."""
    opens = {name: value for name, value in variables.items() if name.startswith("AWS_")}
    return hashlib.sha256(json.dumps([section.model_dump(), opens], sort_keys=True).encode()).digest()
