"""What the HTTP side shows: the runner, its queues, its experiments, looked up when somebody asks."""

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from studio_runner import __version__
from studio_runner.errors import BrokerError, NotFoundError, Reason
from studio_runner.machine.gpus.pool import CardState, Place
from studio_runner.machine.inventory import Capacity
from studio_runner.process.limits import memory
from studio_runner.queues.base import KeptBroker, QueueStatus
from studio_runner.queues.registry import kind_of, kinds_of
from studio_runner.reports.base import MOST_TOLD
from studio_runner.reports.prometheus import (
    ArtifactFigures,
    CacheFigures,
    GpuFigures,
    HoldFigures,
    QueueFigures,
    Standing,
)
from studio_runner.reports.records import Record, Records
from studio_runner.runner.attempt import Attempt
from studio_runner.runner.daemon import Daemon
from studio_runner.runner.hold import Hold
from studio_runner.runner.outcome import of_reason
from studio_runner.runner.trial import Trial
from studio_runner.web.catalogue import Catalogue, ExperimentLine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunnerLimits:
    """When the runner ends by itself, as it was told; 0: never."""

    tasks: int
    idle_duration: float
    interval: float


@dataclass(frozen=True)
class Running:
    """An experiment that runs here now. `elapsed` in seconds, `memory` what it has now and `cores` what is reserved
    for it, GPUs by UUID; sizes in bytes."""

    key: str
    attempt: int
    queue: str
    project: str | None
    stage: str
    started: float
    elapsed: float
    cores: int
    memory: int
    memory_reserved: int
    gpus: Sequence[str]


@dataclass(frozen=True)
class GpuView:
    """A GPU of this runner, or a MIG instance of one (then with the UUID of its GPU as `parent`, and its
    `profile`). `memory` in bytes; `trouble` says why it is set aside; `experiments` are the keys of those that have
    it, in parts where it is shared."""

    index: int
    uuid: str
    name: str
    vendor: str
    memory: int
    slots: int
    parent: str
    profile: str
    state: CardState
    trouble: str
    experiments: Sequence[str]


@dataclass(frozen=True)
class RunnerView:
    """The runner. `started` is Unix time, `uptime` in seconds; `total` is what experiments may have of the machine,
    `free` what nobody has reserved; `hold`: for which message of a queue some of that is held free."""

    host: str
    runner: str
    version: str
    started: float
    uptime: float
    draining: bool
    total: Capacity
    free: Capacity
    limits: RunnerLimits
    running: Sequence[Running]
    gpus: Sequence[GpuView]
    hold: Hold | None


@dataclass(frozen=True)
class QueueView:
    """A queue and its messages by state; `served`: this runner takes experiments from it."""

    name: str
    served: bool
    waiting: int
    claimed: int
    delayed: int
    dead: int


class Overview:
    """Reads what the daemon, the queues and the records know.

    `brokers` are others than the daemon's: what those are asked decides what the daemon is told of.
    """

    def __init__(self, daemon: Daemon, brokers: Sequence[KeptBroker]) -> None:
        self.daemon, self._brokers = daemon, brokers
        database = daemon.host.settings.places.store / "db"
        self.records = Records.in_directory(database)
        self._catalogue = Catalogue(database / "experiments")
        self._started = time.time()

    def runner(self) -> RunnerView:
        host, now = self.daemon.host, time.time()
        limits = host.settings.limits
        return RunnerView(
            host=host.identity.host,
            runner=host.identity.runner,
            version=__version__,
            started=self._started,
            uptime=now - self._started,
            draining=self.daemon.draining,
            total=host.ledger.total,
            free=host.ledger.free,
            limits=RunnerLimits(limits.tasks, limits.idle_duration, limits.interval),
            running=[_running(trial, now) for trial in self._trials()],
            gpus=self._gpus(),
            hold=self.daemon.hold,
        )

    async def queues(self) -> list[QueueView]:
        """Of the brokers that answer; the others are among the `troubles`."""
        serves = self.daemon.host.settings.queues.serves
        answers = await asyncio.gather(*map(_statuses, self._brokers))
        return [QueueView(served=serves(status.name), **asdict(status)) for found in answers for status in found]

    async def withdraw(self, queue: str, name: str) -> bool:
        """Take the waiting message of an experiment off its queue, wherever that is."""
        settings = self.daemon.host.settings.queues
        broker = self._brokers[kinds_of(settings).index(kind_of(queue, settings))]
        return await broker.withdraw(queue, name)

    async def experiments(self) -> tuple[ExperimentLine, ...]:
        """Newest first."""
        return await self._catalogue.lines()

    async def record(self, key: str) -> Record:
        record = await self.records.read(key)
        if record is None:
            raise NotFoundError(
                f"There is no experiment {key!r}", hint="GET /api/v1/experiments lists those there are."
            )
        return record

    def attempt(self, key: str) -> Attempt | None:
        """The attempt that runs here now."""
        return next((attempt for attempt in self.daemon.attempts if attempt.key == key), None)

    def is_over(self, attempt: Attempt) -> bool:
        return attempt not in self.daemon.attempts

    def stop(self, attempt: Attempt) -> None:
        attempt.stop(of_reason(Reason.STOPPED))

    async def troubles(self) -> list[str]:
        """Why this runner should get no work now; empty when it should."""
        found = ["it is draining"] if self.daemon.draining else []
        for broker in self._brokers:
            try:
                await broker.queues()
            except BrokerError as error:
                found.append(str(error))
        place = self.daemon.host.settings.places.working_dir
        if not await asyncio.to_thread(os.access, place, os.W_OK | os.X_OK):
            found.append(f"the working directory {place} cannot be written")
        return found

    async def standing(self) -> Standing:
        ledger, counts = self.daemon.host.ledger, self.daemon.counts
        cache, kept = await self.daemon.host.environments.usage(), self.daemon.host.artifact_cache
        images = await self.daemon.host.images.usage()
        return Standing(
            host=self.daemon.host.identity.host,
            total=ledger.total,
            free=ledger.free,
            draining=self.daemon.draining,
            running=[trial.subject for trial in self._trials()],
            gpus=[
                GpuFigures(one.uuid, one.name, one.state.value, one.trouble, one.experiments)
                for one in self._gpus()
            ],
            held=self._held(),
            queues=[
                QueueFigures(
                    name=queue.name,
                    found=counts.found[queue.name],
                    failed=counts.failed[queue.name],
                    checked=counts.checked[queue.name],
                    ignored=counts.ignored[queue.name],
                    rejected=counts.rejected[queue.name],
                    messages={state: getattr(queue, state) for state in ("waiting", "claimed", "delayed", "dead")},
                )
                for queue in await self.queues()
            ],
            environments=CacheFigures(cache.hits, cache.misses, cache.size),
            images=CacheFigures(images.hits, images.misses, images.size),
            artifacts=ArtifactFigures(kept.hits, kept.misses) if kept else ArtifactFigures(),
        )

    def _gpus(self) -> list[GpuView]:
        holders: dict[str, list[str]] = {}
        for trial in self._trials():
            for uuid in trial.reservation.gpus.cards:
                holders.setdefault(uuid, []).append(trial.subject.key)
        places = self.daemon.host.gpus.pool.places
        return [_gpu(place, holders.get(uuid, ())) for uuid, place in places.items()]

    def _held(self) -> HoldFigures | None:
        hold = self.daemon.hold
        if hold is None:
            return None
        return HoldFigures(hold.queue, hold.share, max(0.0, time.time() - hold.since), hold.left)

    def _trials(self) -> list[Trial]:
        return [attempt.trial for attempt in self.daemon.attempts if attempt.trial]


async def _statuses(broker: KeptBroker) -> list[QueueStatus]:
    """What a broker has; nothing when it does not answer."""
    found = []
    try:
        for name in await broker.queues():
            with suppress(NotFoundError):  # deleted meanwhile
                found.append(await broker.status(name))
    except BrokerError as error:
        log.debug("no queues can be shown: %s", error)
    return found


def _gpu(place: Place, experiments: Sequence[str]) -> GpuView:
    card = place.card
    return GpuView(
        index=card.index,
        uuid=card.uuid,
        name=card.name,
        vendor=card.vendor,
        memory=card.memory,
        slots=card.slots,
        parent=card.parent,
        profile=card.profile,
        state=place.state,
        trouble=place.health.trouble,
        experiments=experiments,
    )


def _running(trial: Trial, now: float) -> Running:
    share = trial.reservation.share
    return Running(
        key=trial.subject.key,
        attempt=trial.subject.number,
        queue=trial.subject.queue,
        project=trial.request.project[:MOST_TOLD] or None,
        stage=trial.stage,
        started=trial.started_at,
        elapsed=now - trial.started_at,
        cores=share.cores,
        memory=memory(trial.process.pids(), 0) if trial.process else 0,
        memory_reserved=share.memory,
        gpus=trial.reservation.gpus.cards,
    )
