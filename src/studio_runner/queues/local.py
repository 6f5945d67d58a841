"""Queues that are directories: the embedded default, shared by any number of runners on one root.

How it works on disk, and why, is in docs/reference/local-queue.md.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from studio_runner.errors import BrokerError
from studio_runner.process.modes import make_directories
from studio_runner.queues import keeping, moves
from studio_runner.queues.attendance import Attendance, LocalQueueOptions
from studio_runner.queues.base import DeadLetter, Gate, QueueStatus
from studio_runner.queues.claims import LocalDelivery
from studio_runner.queues.complaints import Complaints
from studio_runner.queues.layout import WHOLE, QueuePlace, RootPlace
from studio_runner.queues.waiting import heard
from studio_runner.queues.watch import Interest

__all__ = ["LocalBroker", "LocalDelivery", "LocalQueueOptions"]

log = logging.getLogger(__name__)

Kept = TypeVar("Kept")


class LocalBroker:
    """A queue root. Opening it touches nothing; the first `consume` or `changed` makes this process one of
    its runners, with a heartbeat and background tasks that end with the context."""

    def __init__(self, root: Path, options: LocalQueueOptions | None = None) -> None:
        self._place = RootPlace(root)
        self._options = options or LocalQueueOptions()
        self._complaints = Complaints(log)
        self._attendance: Attendance | None = None
        self._stack = AsyncExitStack()
        self._reported: list[str] = []

    async def __aenter__(self) -> Self:
        self._stack.callback(self._leave)
        self._group = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._stack.callback(self._rest)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The stack is not told of the error: a task group would wrap it in a group.
        await self._stack.aclose()

    # -- Broker -------------------------------------------------------------------------------------------------

    async def queues(self) -> Sequence[str]:
        self._reported = self._place.queue_names()
        return self._reported

    async def changed(self) -> None:
        """Return once there are other queues than `queues` returned last."""
        watch = self._attend().watch
        happened = asyncio.Event()

        def listener(_name: str | None) -> None:
            happened.set()

        try:
            while self._names() == self._reported:
                watch.arm(self._place.root, Interest.QUEUES, listener)
                await heard(happened, self._options.poll)
                happened.clear()
        finally:
            watch.disarm(listener)

    def consume(self, queue: str, gate: Gate) -> AsyncGenerator[LocalDelivery, None]:
        """Also for a queue that does not exist yet: its first message is delivered when it comes."""
        return self._attend().consumer(queue).deliveries(gate)

    async def publish(self, queue: str, body: bytes) -> None:
        def add(place: QueuePlace) -> None:
            self._make(place)
            _add(place, body, "")

        await self._keep("adding a message", queue, add)

    async def report(self, queue: str, text: bytes) -> bool:
        if not await self.exists(queue):
            return False
        await self._keep("adding a report", queue, lambda place: _add(place, text, WHOLE))
        return True

    async def exists(self, queue: str) -> bool:
        return self._place.queue(queue).messages.is_dir()

    # -- QueueKeeper --------------------------------------------------------------------------------------------

    async def create(self, queue: str) -> None:
        await self._keep("making the queue", queue, self._make)

    async def status(self, queue: str) -> QueueStatus:
        return await self._keep("counting messages", queue, keeping.status)

    async def dead_letters(self, queue: str) -> Sequence[DeadLetter]:
        return await self._keep("reading dead letters", queue, keeping.dead_letters)

    async def revive(self, queue: str, name: str | None = None) -> int:
        return await self._keep("returning dead letters", queue, lambda place: keeping.revive(place, name))

    async def withdraw(self, queue: str, name: str) -> bool:
        return await self._keep("withdrawing a message", queue, lambda place: keeping.withdraw(place, name))

    async def remove(self, queue: str) -> bool:
        """Delete a queue in which nothing waits, nor runs; False when something does. Dead letters stay."""
        return await self._keep("deleting the queue", queue, keeping.remove)

    def _make(self, place: QueuePlace) -> None:
        make_directories(str(place.messages))

    async def _keep(self, doing: str, queue: str, work: Callable[[QueuePlace], Kept]) -> Kept:
        place = self._place.queue(queue)
        try:
            return await asyncio.to_thread(work, place)
        except OSError as error:
            raise moves.broker_error(doing, place, error) from error

    # -- being one of the runners -------------------------------------------------------------------------------

    def _attend(self) -> Attendance:
        if self._attendance is None:
            attendance = Attendance(self._place, self._options, self._complaints)
            attendance.start(self._group)
            self._attendance = attendance
        return self._attendance

    def _rest(self) -> None:
        if self._attendance is not None:
            self._attendance.rest()

    def _leave(self) -> None:
        if self._attendance is not None:
            self._attendance.leave()

    def _names(self) -> list[str]:
        try:
            return self._place.queue_names()
        except BrokerError as error:
            self._complaints.once(self._place.root, str(error), error.hint or "")
            return self._reported


def _add(place: QueuePlace, body: bytes, ending: str) -> None:
    # Messages of one moment keep the order of their names.
    name = f"{time.time_ns():x}-{uuid.uuid4().hex[:12]}{ending}"
    moves.write_whole(place.incoming, place.messages / name, body)
