"""Experiment records: what people and existing clients read about an experiment (INTERFACE section 6).

`experiments/<key>` holds the message's `experiment` object as JSON, kept current by whoever knows more, plus
one object `studio_runner` with what the runner did. `users/<owner>/experiments/<key>` and
`projects/<project>/<key>/owner` are the indexes that existing clients keep. We write no credentials into a record;
those that a client wrote into its own stay there, since it needs them.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from studio_runner.messages.jsontext import loads, too_deep
from studio_runner.messages.secrets import HIDDEN, mask_urls
from studio_runner.messages.units import CEILING
from studio_runner.process.hidden import Cover
from studio_runner.reports.documents import DirectoryDocuments, Documents

log = logging.getLogger(__name__)

OWN = "studio_runner"
"""The object in a record that is ours."""

Change = Callable[[dict[str, Any] | None], Mapping[str, Any] | None]
"""From a record (None: it does not exist) to what it shall be (None: what it is)."""

_LONGEST = 200
"""Bytes of a part of a path; file systems take a little more."""
_PLAIN = re.compile(r"[^/\0\ud800-\udfff]{1,200}")


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
    def cover(self) -> Cover:
        """Where secrets are in its stored output."""
        return Cover.of(self.own.get("hidden"))

    @property
    def over(self) -> bool:
        """It has ended for good: nothing will change any more. (`stopped` alone is only the wish.)"""
        return self.status in ("finished", "stopped") and self.time("time_finished") is not None

    def time(self, name: str) -> float | None:
        """A time field in Unix seconds, or None."""
        return quantity(self.document.get(name))


def quantity(value: object) -> float | None:
    """What a record says in a number, None where it says none that anything could have."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < CEILING:
        return None
    return float(value)


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

    async def version(self, key: str) -> str | None:
        """Something cheap that changes whenever the record does; None when there is none."""
        return await self._documents.version(_experiment(key))

    async def update(
        self, key: str, changes: Mapping[str, Any], *, otherwise: Mapping[str, Any] | None = None
    ) -> None:
        """Merge `changes` into the record: objects merge, any other value replaces.

        A record that does not exist starts as `otherwise` (the message's experiment object), so that experiments of
        clients that keep no records show up all the same.
        """
        fresh = {"key": key, **without_credentials(otherwise or {})}
        await self.change(key, lambda document: merge(fresh if document is None else document, changes))

    async def change(self, key: str, edit: Change) -> None:
        """Replace the record by `edit` of it, a pure function that may be called again (`merge` helps)."""

        def edited(content: bytes | None) -> bytes | None:
            document = None if content is None else _loads(key, content)
            changed = edit(document)
            return None if changed is None else _dumps(changed)

        await self._documents.change(_experiment(key), edited)

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
    return isinstance(document, str) and (document.endswith(HIDDEN) or ("://" in document and HIDDEN in document))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return mask_urls(value)
    if isinstance(value, Mapping):
        return without_credentials(value)
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value


def merge(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the changes, which lose their credentials: objects merge, any other value replaces."""
    return _merged(document, without_credentials(changes))


def _merged(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(document)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _experiment(key: str) -> str:
    return f"experiments/{_part(key)}"


def _part(name: str) -> str:
    """One path component for a name from outside: as it is where that is safe, percent-quoted where not, and with a
    hash for the end of one that is too long."""
    if _PLAIN.fullmatch(name) and not name.startswith(".") and len(name.encode()) <= _LONGEST:
        return name
    quoted = quote(name, safe="", errors="surrogatepass").replace(".", "%2E") or "%00"
    if len(quoted) <= _LONGEST:
        return quoted
    digest = hashlib.sha256(quoted.encode()).hexdigest()[:16]
    return f"{quoted[: _LONGEST - 17]}-{digest}"


def _loads(name: str, content: bytes) -> dict[str, Any] | None:
    try:
        document = loads(content)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and not too_deep(content, document):
        return document
    log.warning("The record of %s is not a JSON object; it is passed over", name)
    return None


def _dumps(value: Any) -> bytes:
    """Half a surrogate pair, which JSON can spell and UTF-8 cannot, stays spelled."""
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()
