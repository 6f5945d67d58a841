"""Experiment records: what people and existing clients read about an experiment (INTERFACE section 6).

`experiments/<key>` holds the message's `experiment` object as JSON, kept current by whoever knows more, plus
one object `studio_runner` with what the runner did. `users/<owner>/experiments/<key>` and
`projects/<project>/<key>/owner` are the indexes that existing clients keep. Credentials never get into a record.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from studio_runner.errors import ObjectNotFoundError, StorageUnavailableError
from studio_runner.messages.secrets import HIDDEN, mask_urls

log = logging.getLogger(__name__)

OWN = "studio_runner"
"""The object in a record that is ours."""

Edit = Callable[[bytes | None], bytes]
"""From what a document holds now (None: it does not exist) to what it shall hold."""

_PLAIN = re.compile(r"[^/\0]{1,200}")


class Documents(Protocol):
    """Small documents by key, changed one at a time."""

    async def read(self, key: str) -> bytes | None: ...
    async def change(self, key: str, edit: Edit) -> None:
        """Replace the document by `edit` of it; nobody else's change gets lost in between where the place can
        prevent that."""
        ...

    async def all(self, prefix: str) -> Sequence[tuple[str, bytes]]:
        """Every document directly under `prefix` (which ends with a slash), with the rest of its key."""
        ...


class DirectoryDocuments:
    """Documents as files under `root`; a change is one thread hop, under a lock that works across processes.

    Not synced to the disk: a record that a power cut takes back a few seconds tells nobody anything wrong that
    `_results` would not put right.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    async def read(self, key: str) -> bytes | None:
        return await asyncio.to_thread(_read, self._root / key)

    async def change(self, key: str, edit: Edit) -> None:
        await asyncio.to_thread(self._change, key, edit)

    async def all(self, prefix: str) -> Sequence[tuple[str, bytes]]:
        return await asyncio.to_thread(lambda: list(self._walk(self._root / prefix)))

    def _change(self, key: str, edit: Edit) -> None:
        path = self._root / key
        try:
            with self._lock():
                _replace(path, edit(_read(path)))
        except OSError as error:
            raise StorageUnavailableError(
                f"The record {path} could not be written: {error.strerror or error}",
                hint="Check the disk's free space and the permissions of the directory.",
            ) from error

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        name = self._root / ".lock"
        try:
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _walk(self, directory: Path) -> Iterator[tuple[str, bytes]]:
        try:
            entries = list(os.scandir(directory))
        except FileNotFoundError:
            return
        for entry in entries:
            if entry.name.startswith(".") or not entry.is_file():
                continue
            content = _read(Path(entry.path))
            if content is not None:
                yield entry.name, content


class ObjectStore(Protocol):
    """The part of a store (`storage.base.Store`) that records need."""

    def get(self, key: str) -> AsyncIterator[bytes]: ...
    async def put(self, key: str, stream: AsyncIterator[bytes]) -> object: ...
    def list(self, prefix: str = "") -> AsyncIterator["Named"]: ...


class Named(Protocol):
    """Something with a key."""

    @property
    def key(self) -> str: ...


class StoreDocuments:
    """Documents as objects of a store; of two changes at the same moment the later one wins."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def read(self, key: str) -> bytes | None:
        try:
            return b"".join([piece async for piece in self._store.get(key)])
        except ObjectNotFoundError:
            return None

    async def change(self, key: str, edit: Edit) -> None:
        await self._store.put(key, _stream(edit(await self.read(key))))

    async def all(self, prefix: str) -> Sequence[tuple[str, bytes]]:
        keys = [found.key async for found in self._store.list(prefix)]
        direct = [key for key in keys if "/" not in key.removeprefix(prefix)]
        contents = [(key.removeprefix(prefix), await self.read(key)) for key in direct]
        return [(name, content) for name, content in contents if content is not None]


@dataclass(frozen=True)
class Record:
    """One experiment's record. `document` is the JSON object as it is stored."""

    key: str
    document: Mapping[str, Any]

    @property
    def status(self) -> str:
        """`waiting`, `running`, `finished` or `stopped`."""
        return str(self.document.get("status") or "waiting")

    @property
    def own(self) -> Mapping[str, Any]:
        """What the runner and the front end noted: queue, host, attempt, directory, reason, sentence, ..."""
        own = self.document.get(OWN)
        return own if isinstance(own, Mapping) else {}

    @property
    def reason(self) -> str | None:
        return self.own.get("reason")

    @property
    def over(self) -> bool:
        """It has ended for good: nothing will change any more. (`stopped` alone is only the wish.)"""
        return self.status in ("finished", "stopped") and self.time("time_finished") is not None

    def time(self, name: str) -> float | None:
        """A time field in Unix seconds, or None."""
        value = self.document.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


class Records:
    """Reads and writes experiment records."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    @classmethod
    def in_directory(cls, root: Path) -> "Records":
        """Records in a directory: the embedded default's `<store>/db`."""
        return cls(DirectoryDocuments(root))

    async def create(self, experiment: Mapping[str, Any]) -> None:
        """Write the record and its indexes; a record that stands under the same key is replaced."""
        key, fresh = str(experiment["key"]), _dumps(without_credentials(experiment))
        await self._documents.change(_experiment(key), lambda _: fresh)
        owner = str(experiment.get("owner") or "guest")
        added = _dumps(experiment.get("time_added"))
        await self._documents.change(f"users/{_part(owner)}/experiments/{_part(key)}", lambda _: added)
        if project := experiment.get("project"):
            name = f"projects/{_part(str(project))}/{_part(key)}/owner"
            await self._documents.change(name, lambda _: _dumps(owner))

    async def read(self, key: str) -> Record | None:
        content = await self._documents.read(_experiment(key))
        document = None if content is None else _loads(key, content)
        return None if document is None else Record(key, document)

    async def update(
        self, key: str, changes: Mapping[str, Any], *, otherwise: Mapping[str, Any] | None = None
    ) -> None:
        """Merge `changes` into the record: objects merge, any other value replaces.

        A record that does not exist starts as `otherwise` (the message's experiment object), so that experiments of
        clients that keep no records show up all the same.
        """

        def edit(content: bytes | None) -> bytes:
            document = None if content is None else _loads(key, content)
            if document is None:
                document = {"key": key, **without_credentials(otherwise or {})}
            return _dumps(_merge(document, without_credentials(changes)))

        await self._documents.change(_experiment(key), edit)

    async def list(self) -> Sequence[Record]:
        """Every record, the newest first."""
        found = [
            Record(str(document.get("key", name)), document)
            for name, content in await self._documents.all("experiments/")
            if (document := _loads(name, content)) is not None
        ]
        return sorted(found, key=lambda record: record.time("time_added") or 0.0, reverse=True)


def without_credentials(document: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without `credentials` objects and with the secret parts of addresses masked."""
    return {key: _clean(value) for key, value in document.items() if key != "credentials"}


def has_masked(document: object) -> bool:
    """Whether something was masked in it, so that it cannot be used as a request again."""
    if isinstance(document, Mapping):
        return any(has_masked(value) for value in document.values())
    if isinstance(document, list | tuple):
        return any(has_masked(value) for value in document)
    return isinstance(document, str) and "://" in document and HIDDEN in document


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return mask_urls(value)
    if isinstance(value, Mapping):
        return without_credentials(value)
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value


def _merge(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(document)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _experiment(key: str) -> str:
    return f"experiments/{_part(key)}"


def _part(name: str) -> str:
    """One path component for a name from outside: as it is where that is safe, percent-quoted where not."""
    if _PLAIN.fullmatch(name) and not name.startswith("."):
        return name
    return quote(name, safe="").replace(".", "%2E")[:200] or "%00"


def _loads(name: str, content: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if isinstance(document, dict):
        return document
    log.warning("The record of %s is not a JSON object; it is passed over", name)
    return None


def _dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode(errors="surrogateescape")


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _replace(path: Path, content: bytes) -> None:
    """Write beside and rename. Under the lock nobody else uses the name beside."""
    beside = path.with_name(".new")
    try:
        _write(beside, content)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(beside, content)
    beside.rename(path)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        left = memoryview(content)
        while left:
            left = left[file.write(left) :]


async def _stream(content: bytes) -> AsyncIterator[bytes]:
    yield content
