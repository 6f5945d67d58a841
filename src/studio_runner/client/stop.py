"""Stopping an experiment: off its queue while it waits, by its `_status` artifact while it runs."""

import io
import json
import tarfile
import time
from collections.abc import AsyncIterator, Mapping
from enum import StrEnum
from typing import Any

from studio_runner.errors import Reason
from studio_runner.messages.artifact import Artifact
from studio_runner.queues.base import QueueKeeper
from studio_runner.reports.records import OWN, Record, Records
from studio_runner.storage.registry import open_store

STATUS = "_status"


class Stopped(StrEnum):
    """What came of the wish."""

    WITHDRAWN = "withdrawn"
    ASKED = "asked"
    OVER = "over"


async def stop(record: Record, records: Records, keeper: QueueKeeper) -> Stopped:
    """Stop an experiment wherever it is. ASKED means that its runner will see the wish within seconds."""
    if record.over:
        return Stopped.OVER
    queue = record.own.get("queue")
    if queue and await keeper.withdraw(queue, record.key):
        await records.update(record.key, _never_ran())
        return Stopped.WITHDRAWN
    await ask(record)
    await records.update(record.key, {"status": "stopped"})
    return Stopped.ASKED


async def ask(record: Record) -> None:
    """Write the wish where the runner looks for it, when the message named such a place."""
    raw = (record.document.get("artifacts") or {}).get(STATUS)
    if not isinstance(raw, Mapping):
        return
    artifact = Artifact.model_validate({**raw, "label": STATUS})
    store, key = open_store(artifact.location)
    await store.put(key, _once(_wish(record.key, artifact)))


def _wish(key: str, artifact: Artifact) -> bytes:
    body = json.dumps({"key": key, "status": "stopped"}).encode()
    return _in_archive("status.json", body) if artifact.unpack else body


def _in_archive(name: str, body: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        header = tarfile.TarInfo(name)
        header.size = len(body)
        archive.addfile(header, io.BytesIO(body))
    return buffer.getvalue()


def _never_ran() -> dict[str, Any]:
    own = {"reason": Reason.STOPPED.value, "sentence": "It was taken off its queue before it ran."}
    return {"status": "stopped", "time_finished": time.time(), OWN: own}


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
