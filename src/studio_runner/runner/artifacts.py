"""The artifacts of one attempt: which are fetched, which are uploaded and when, and the two that are documents.

`_status` is the experimenter's and only read. `_results` is the runner's last word. `_metadata` is uploaded as
individual objects, one per attempt. Every other mutable artifact is a directory that goes up when it changed.
`_singularity` is no artifact in this sense: what it names is run, not brought (`runner.images`).
"""

import asyncio
import json
import logging
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio_runner.errors import ObjectNotFoundError, StorageUnavailableError
from studio_runner.messages.artifact import Artifact
from studio_runner.messages.jsontext import beginning
from studio_runner.messages.request import Request
from studio_runner.messages.results import stop_requested
from studio_runner.runner import retval
from studio_runner.runner.fence import Fence
from studio_runner.runner.host import Host
from studio_runner.runner.images import IMAGE
from studio_runner.storage.access import access_to
from studio_runner.storage.base import Store
from studio_runner.storage.blocking import blocking
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.document import document_in
from studio_runner.storage.registry import Stores
from studio_runner.storage.transfer import Fetch, Put, Removal, Upload, fetch_all, put_document, upload_all

log = logging.getLogger(__name__)

STATUS, RESULTS, METADATA, OUTPUT = "_status", "_results", "_metadata", "output"
DOCUMENTS = frozenset({STATUS, RESULTS, METADATA})
RESULTS_FILE, STATUS_FILE = "_results.json", "status.json"
STATUS_LIMIT = 1 << 20
CLOCK_SKEW = 5.0
"""Seconds by which the clocks of a store and of a client may differ."""
UPLOAD_WAITS = (0.5, 2.0)
"""Seconds before an upload that failed for the store's sake is tried again."""


@dataclass(frozen=True)
class Place:
    """One artifact of an attempt: where it is stored and where it lies on this machine."""

    artifact: Artifact
    store: Store
    key: str
    directory: Path

    @property
    def label(self) -> str:
        return self.artifact.label


class Artifacts:
    """All artifacts of one attempt; `number` counts from 1."""

    def __init__(self, request: Request, directory: Path, number: int, host: Host) -> None:
        self._directory = directory
        self._number = number
        self._cache = host.artifact_cache
        self._submitted = request.experiment.time_added or 0.0
        self._places = {
            label: Place(artifact, *_opened(host.stores, request, artifact), directory / label)
            for label, artifact in request.artifacts.items()
            if label != IMAGE
        }
        self._named = request.artifacts
        self.fence = self._make_fence(request, {"attempt": number, "runner": host.identity.runner})
        still_mine = self.fence.hold if self.fence else None
        self._uploads = {
            label: Upload(
                place.artifact,
                place.store,
                place.key,
                place.directory,
                still_mine=still_mine,
                alone=retval.alone(request, label),
            )
            for label, place in self._places.items()
            if place.artifact.mutable and label not in DOCUMENTS
        }

    def _make_fence(self, request: Request, attempt: Mapping[str, Any]) -> Fence | None:
        """Beside the results, else beside what else is brought back; None when nothing is."""
        writable = [place for place in self._places.values() if place.artifact.mutable]
        if not writable:
            return None
        place = self._places.get(RESULTS) or self._places.get(OUTPUT) or writable[0]
        return Fence(place.store, posixpath.dirname(place.key), request, attempt)

    @property
    def fenced(self) -> bool:
        """Whether the store keeps results of attempts that no longer count away."""
        return self.fence is not None and self.fence.stands

    @property
    def remote(self) -> bool:
        """Whether a network lies between this machine and a store."""
        return any(blocking(place.store) is None for place in self._places.values())

    @property
    def mutable(self) -> Mapping[str, Artifact]:
        """What goes up, by label."""
        return {label: self._places[label].artifact for label in self._uploads}

    def has(self, label: str) -> bool:
        return label in self._places

    async def begin(self, budget: DiskBudget) -> None:
        """Make room for the output of this attempt; that of the attempt before it stays beside it."""
        directory = self._directory / OUTPUT
        directory.mkdir(exist_ok=True)
        if self._number > 1 and OUTPUT in self._places:
            await fetch_all(self._fetches([OUTPUT]), [], budget, self._cache)
            earlier = directory / "output"
            if earlier.is_file():
                earlier.rename(directory / f"output.attempt-{self._number - 1}")

    async def fetch(self, budget: DiskBudget) -> None:
        """Bring every artifact here but the output and the documents.

        Results that are there before the first attempt are those of another run under the same key, and would be
        taken for this one's: they are removed.
        """
        labels = [label for label in self._places if label not in DOCUMENTS and label != OUTPUT]
        results = self._places.get(RESULTS) if self._number == 1 else None
        removals = [Removal(results.store, results.key)] if results else []
        await fetch_all(self._fetches(labels), removals, budget, self._cache)

    def _fetches(self, labels: Iterable[str]) -> list[Fetch]:
        chosen = [self._places[label] for label in labels]
        return [
            Fetch(place.artifact, place.store, place.key, place.directory, self._uploads.get(place.label))
            for place in chosen
        ]

    async def upload(self, labels: Iterable[str], metadata: Mapping[str, bytes]) -> None:
        """Bring the named ones back, those that changed, and the metadata documents (content by file name); what
        may pass is tried again."""
        uploads, puts = [self._uploads[label] for label in labels], self._metadata(metadata)
        for wait in UPLOAD_WAITS:
            try:
                await upload_all(uploads, puts)
            except StorageUnavailableError as error:
                log.info("upload failed, next try in %g s: %s", wait, error)
                await asyncio.sleep(wait)
            else:
                return
        await upload_all(uploads, puts)

    def _metadata(self, documents: Mapping[str, bytes]) -> list[Put]:
        """Each document is an object of its own under `metadata/`, beside the artifacts."""
        if not (place := self._places.get(METADATA)):
            return []
        folder = posixpath.join(posixpath.dirname(place.key), "metadata")
        return [Put(place.store, posixpath.join(folder, name), content) for name, content in documents.items()]

    async def put_results(self, document: Mapping[str, Any]) -> None:
        """The last word, visible only when it is whole."""
        if place := self._places.get(RESULTS):
            body = json.dumps(document, indent=1).encode()
            await put_document(place.artifact, place.store, place.key, RESULTS_FILE, body)

    async def are_outdated(self) -> bool:
        """Whether those of a later submission of the same key are there."""
        return self.fence is not None and await self.fence.is_outdated()

    async def approach(self, *, first: bool) -> Mapping[str, Any] | None:
        """Make this attempt the one that counts; or what an attempt before it delivered as its last word."""
        return await self.fence.approach(first=first) if self.fence else None

    async def deliver(self, document: Mapping[str, Any]) -> None:
        """The last word: valid once the fence has it, visible once it is whole. SupersededError when another
        attempt counts."""
        if self.fence:
            await self.fence.commit(document)
        await self.put_results(document)

    def stop_watch(self) -> "StopWatch | None":
        """Reads `_status`, where the message names it."""
        place = self._places.get(STATUS)
        return StopWatch(place, self._submitted) if place else None

    def addresses(self) -> dict[str, str]:
        """Label to address, without what opens it."""
        return {label: artifact.address for label, artifact in self._named.items()}

    def names(self) -> dict[str, str]:
        """Label to the name of its object, for `_results.json`."""
        return {label: artifact.name for label, artifact in self._named.items()}


def _opened(stores: Stores, request: Request, artifact: Artifact) -> tuple[Store, str]:
    return stores.open(artifact.location, access_to(request, artifact))


class StopWatch:
    """Looks whether the experimenter asked for a stop; reads the object only when it changed.

    A request from before the experiment was submitted (`since`, Unix time) was for another run under the same key.
    """

    def __init__(self, place: Place, since: float) -> None:
        self._place = place
        self._since = since
        self._seen = ""

    async def requested(self) -> bool:
        try:
            info = await self._place.store.head(self._place.key)
        except ObjectNotFoundError:
            return False
        if info.etag == self._seen or info.size > STATUS_LIMIT or info.modified < self._since - CLOCK_SKEW:
            return False
        body = await beginning(self._place.store.get(self._place.key), STATUS_LIMIT)
        self._seen = info.etag
        return stop_requested(document_in(body, STATUS_FILE, STATUS_LIMIT))
