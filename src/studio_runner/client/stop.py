"""Stopping an experiment: off its queue while it waits, by its `_status` artifact and its record while it runs."""

import json
import logging
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Protocol

from studio_runner.client.opening import Opener
from studio_runner.errors import BrokerError, NotFoundError, Reason, StudioRunnerError
from studio_runner.messages.artifact import Artifact
from studio_runner.reports.records import OWN, Record, Records
from studio_runner.storage.transfer import put_document

log = logging.getLogger(__name__)

STATUS = "_status"


class Stopped(StrEnum):
    """What came of the wish."""

    WITHDRAWN = "withdrawn"
    ASKED = "asked"
    OVER = "over"


class Withdrawing(Protocol):
    """The part of a broker (`queues.base.QueueKeeper`) that stopping needs."""

    async def withdraw(self, queue: str, name: str) -> bool: ...


async def stop(record: Record, records: Records, keeper: Withdrawing, opener: Opener) -> Stopped:
    """Stop an experiment wherever it is. ASKED means that its runner will see the wish within seconds."""
    if record.over:
        return Stopped.OVER
    if await _withdrawn(record, keeper):
        await records.update(record.key, _never_ran())
        return Stopped.WITHDRAWN
    trouble = await _asked(record, opener)
    try:
        await records.update(record.key, {"status": "stopped"})
    except StudioRunnerError as error:  # the runner looks at both places
        if trouble is not None or STATUS not in (record.document.get("artifacts") or {}):
            raise
        log.warning("the record of experiment %s could not be written: %s", record.key, error)
    return Stopped.ASKED


async def ask(record: Record, opener: Opener) -> None:
    """Write the wish where the runner looks for it, when the message named such a place."""
    raw = (record.document.get("artifacts") or {}).get(STATUS)
    if not isinstance(raw, Mapping):
        return
    artifact = Artifact.model_validate({**raw, "label": STATUS})
    store, key = opener.open(artifact)
    wish = json.dumps({"key": record.key, "status": "stopped"}).encode()
    await put_document(artifact, store, key, "status.json", wish)


async def _withdrawn(record: Record, keeper: Withdrawing) -> bool:
    queue = record.own.get("queue")
    if not isinstance(queue, str) or not queue:
        return False
    try:
        return await keeper.withdraw(queue, str(record.own.get("sealed") or record.key))
    except NotFoundError:
        return False
    except BrokerError as error:  # a runner that takes it reads the wish before it runs it
        log.warning("whether experiment %s still waits cannot be told: %s", record.key, error)
        return False


async def _asked(record: Record, opener: Opener) -> StudioRunnerError | None:
    try:
        await ask(record, opener)
    except StudioRunnerError as error:
        log.warning("the wish to stop experiment %s could not be stored: %s", record.key, error)
        return error
    return None


def _never_ran() -> dict[str, Any]:
    own = {"reason": Reason.STOPPED.value, "sentence": "It was taken off its queue before it ran."}
    return {"status": "stopped", "time_finished": time.time(), OWN: own}
