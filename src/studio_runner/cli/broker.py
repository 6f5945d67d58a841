"""What the commands about queues share."""

import difflib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from studio_runner.config.settings import Settings
from studio_runner.errors import NotFoundError
from studio_runner.queues.local import LocalBroker


@asynccontextmanager
async def opened(settings: Settings, queue: str | None = None) -> AsyncIterator[LocalBroker]:
    """The queue root; NotFoundError when it has no `queue`."""
    async with LocalBroker(settings.places.queue_root) as broker:
        if queue is not None and not await broker.exists(queue):
            raise _unknown(queue, await broker.queues(), settings)
        yield broker


def _unknown(queue: str, known: Sequence[str], settings: Settings) -> NotFoundError:
    near = difflib.get_close_matches(queue, known, n=3)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`studio-runner queues` lists them."
    return NotFoundError(f"There is no queue {queue!r} under {settings.places.queue_root}", hint=hint)
