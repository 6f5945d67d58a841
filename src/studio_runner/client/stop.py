"""Stopping an experiment: off its queue while it waits, by its `_status` artifact while it runs."""

import json
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from studio_runner.errors import Reason
from studio_runner.messages.artifact import Artifact
from studio_runner.queues.base import QueueKeeper
from studio_runner.reports.records import OWN, Record, Records
from studio_runner.storage.registry import open_store
from studio_runner.storage.transfer import put_document

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
    wish = json.dumps({"key": record.key, "status": "stopped"}).encode()
    await put_document(artifact, store, key, "status.json", wish)


def _never_ran() -> dict[str, Any]:
    own = {"reason": Reason.STOPPED.value, "sentence": "It was taken off its queue before it ran."}
    return {"status": "stopped", "time_finished": time.time(), OWN: own}
