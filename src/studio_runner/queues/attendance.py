"""One process as a runner of a queue root: its name there, its heartbeat, its share of looking after the root."""

import asyncio
import re
import secrets
import socket
import time
from dataclasses import dataclass, field

from studio_runner.errors import BrokerError
from studio_runner.process.modes import make_directories
from studio_runner.queues.caretaker import Caretaker
from studio_runner.queues.claims import Claims
from studio_runner.queues.complaints import Complaints
from studio_runner.queues.consumer import Consumer
from studio_runner.queues.heartbeat import Heartbeat, Roster
from studio_runner.queues.layout import RootPlace
from studio_runner.queues.waiting import heard
from studio_runner.queues.watch import Watch, open_watch

BEATS_PER_LEASE = 3


@dataclass(frozen=True)
class LocalQueueOptions:
    """Durations in seconds; all runners of one root should use the same lease. `runner_id` is for people (file
    names and logs show it), what makes it unique is added."""

    lease: float = 15.0
    poll: float = 1.0
    runner_id: str = field(default_factory=socket.gethostname)


class Attendance:
    """Lasts from the first interest in messages until the broker is closed."""

    def __init__(self, root: RootPlace, options: LocalQueueOptions, complaints: Complaints) -> None:
        self._root = root
        self._options = options
        self._complaints = complaints
        self._beat_every = options.lease / BEATS_PER_LEASE
        owner = _owner_name(options.runner_id)
        self._nudge = asyncio.Event()
        self._claims = Claims(owner, self._nudge.set)
        self._heartbeat = Heartbeat(root.runners, owner, complaints)
        self._caretaker = Caretaker(root, Roster(root.runners, owner, options.lease), complaints)
        self._tasks: list[asyncio.Task[None]] = []
        self.watch: Watch = open_watch(complaints)

    def start(self, group: asyncio.TaskGroup) -> None:
        """BrokerError when nothing can be written under the root."""
        try:
            make_directories(str(self._root.root))
            self._heartbeat.start()
        except OSError as error:
            self.watch.close()
            raise BrokerError(
                f"queue root {self._root.root} cannot be used: {error.strerror} ({error.filename})",
                hint="check that the runner may write there, or name another with --queue-root",
            ) from error
        self._tasks = [
            group.create_task(self._beat(), name="queue heartbeat"),
            group.create_task(self._take_care(), name="queue caretaker"),
            group.create_task(self.watch.run(), name="queue watch"),
        ]

    def consumer(self, queue: str) -> Consumer:
        return Consumer(self._root.queue(queue), self._claims, self.watch, self._complaints, self._options.poll)

    def rest(self) -> None:
        """End the background tasks."""
        for task in self._tasks:
            task.cancel()

    def leave(self) -> None:
        """Give back what is held, then say goodbye."""
        self._claims.hand_back()
        self._heartbeat.stop()
        self.watch.close()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._beat_every)
            self._heartbeat.beat()

    async def _take_care(self) -> None:
        await asyncio.to_thread(self._caretaker.tidy)
        while True:
            self._nudge.clear()
            next_due = await asyncio.to_thread(self._round)
            pause = min(self._options.poll, self._beat_every, max(0.0, next_due - time.time()))
            await heard(self._nudge, pause)

    def _round(self) -> float:
        """A root that cannot be looked after for a while is no reason to stop what runs."""
        try:
            return self._caretaker.round()
        except OSError as error:
            problem = f"cannot be looked after: {error.strerror} ({error.filename})"
            self._complaints.once(self._root.root, problem, "check its permissions and whether its server answers")
            return float("inf")


def _owner_name(runner_id: str) -> str:
    """Fit for file names, and never the same twice: a runner that starts again must not pass for its dead self."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', runner_id)[:60]}.{secrets.token_hex(4)}"
