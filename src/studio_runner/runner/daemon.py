"""The daemon: serves every matching queue, several experiments at once, until a limit, a drain or a stop."""

import asyncio
import logging
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import cast

from studio_runner.config.settings import Settings
from studio_runner.environments.containers.readiness import Readiness
from studio_runner.errors import BrokerError, EnvironmentFailedError, Reason
from studio_runner.machine.inventory import has_room
from studio_runner.queues.base import Broker, Delivery, KeptBroker
from studio_runner.queues.registry import opened_brokers
from studio_runner.reports.base import Reporter
from studio_runner.runner.attempt import Attempt
from studio_runner.runner.hold import Hold
from studio_runner.runner.host import Host, identify
from studio_runner.runner.intake import Admission, Intake, QueueCounts, Quota, Terms
from studio_runner.runner.opening import opened_host
from studio_runner.runner.outcome import of_reason
from studio_runner.runner.responses import ResponseQueues, responses_of

log = logging.getLogger(__name__)

AGAIN = 5.0
"""Seconds until a broker that failed is asked again."""


@dataclass(frozen=True)
class Tally:
    """What a daemon did."""

    by_reason: Mapping[Reason, int]

    @property
    def started(self) -> int:
        return sum(self.by_reason.values())


class Daemon:
    """Takes experiments off the queues of its brokers."""

    def __init__(self, host: Host, brokers: Sequence[KeptBroker]) -> None:
        self.host, self.brokers = host, brokers
        limits = host.settings.limits
        self._quota = Quota(limits.tasks, limits.interval)
        self._intake = Intake(host.ledger, self._quota, _terms(host))
        self._running: dict[asyncio.Task[None], Attempt] = {}
        self._ended: Counter[Reason] = Counter()
        self._changed = asyncio.Event()
        self._last_work = time.monotonic()

    async def run(self) -> Tally:
        """Serve until there is a reason to end; returns when the last experiment is settled."""
        async with asyncio.TaskGroup() as consumers:
            serving = [consumers.create_task(self._serve(broker), name="queues") for broker in self.brokers]
            await self._until_done()
            for task in serving:
                task.cancel()
        return Tally(MappingProxyType(dict(self._ended)))

    @property
    def attempts(self) -> list[Attempt]:
        """What runs now."""
        return list(self._running.values())

    @property
    def draining(self) -> bool:
        """Nothing new is taken any more."""
        return self._quota.spent

    @property
    def counts(self) -> QueueCounts:
        return self._intake.counts

    @property
    def hold(self) -> Hold | None:
        """For which message room is held free, if for any."""
        return self._intake.hold

    def drain(self) -> None:
        """Take nothing new; what runs goes on to its end."""
        self._quota.closed = True
        self._changed.set()

    def stop(self) -> None:
        """Take nothing new and give back what runs, after saving what it has."""
        self.drain()
        for attempt in self.attempts:
            attempt.stop(of_reason(Reason.DRAINED))

    async def _until_done(self) -> None:
        while not self._done():
            self._changed.clear()
            try:
                async with asyncio.timeout(self._patience()):
                    await self._changed.wait()
            except TimeoutError:
                log.info("idle for %g s: ending", self.host.settings.limits.idle_duration)
                self.drain()

    def _done(self) -> bool:
        return self._quota.spent and not self._running

    def _patience(self) -> float | None:
        idle = self.host.settings.limits.idle_duration
        if not idle or self._running or self._quota.closed:
            return None
        return max(0.0, self._last_work + idle - time.monotonic())

    async def _serve(self, broker: Broker) -> None:
        """One consumer per queue; queues come and go, and so does the broker."""
        consumers: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    self._attend_to(broker, await self._served(broker), consumers, group)
                    await broker.changed()
                except BrokerError as error:
                    log.warning("the queues cannot be listed, next try in %g s: %s", AGAIN, error)
                    await asyncio.sleep(AGAIN)

    async def _served(self, broker: Broker) -> set[str]:
        return {name for name in await broker.queues() if self.host.settings.queues.serves(name)}

    def _attend_to(
        self, broker: Broker, names: set[str], consumers: dict[str, asyncio.Task[None]], group: asyncio.TaskGroup
    ) -> None:
        """Begin with the queues that are new, end with those that are gone."""
        self.counts.found.update(names)
        for name in names - consumers.keys():
            log.info("serving queue %s", name)
            consumers[name] = group.create_task(self._consume(broker, name), name=f"consume {name}")
        for name in consumers.keys() - names:
            log.info("queue %s is gone", name)
            consumers.pop(name).cancel()
            self._intake.forget(name)

    async def _consume(self, broker: Broker, queue: str) -> None:
        while True:
            try:
                async for delivery in broker.consume(queue, self._intake):
                    self._begin(delivery)
            except BrokerError as error:
                self.counts.failed[queue] += 1
                log.warning("queue %s cannot be read, next try in %g s: %s", queue, AGAIN, error)
            await asyncio.sleep(AGAIN)

    def _begin(self, delivery: Delivery) -> None:
        attempt = Attempt(self.host, delivery, cast(Admission, delivery.ticket))
        task = asyncio.create_task(self._attend(attempt), name=f"attempt {attempt.key}")
        self._running[task] = attempt
        task.add_done_callback(self._forget)

    async def _attend(self, attempt: Attempt) -> None:
        outcome = await attempt.run()
        self._ended[outcome.reason] += 1

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._last_work = time.monotonic()
        self._changed.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("an attempt broke", exc_info=error)


def _terms(host: Host) -> Terms:
    settings = host.settings
    return Terms(
        cpu_only=settings.machine.cpu_only,
        grace=settings.experiments.grace,
        patience=settings.machine.patience,
        room=partial(has_room, settings.places.working_dir),
        objections=host.policy,
        opener=host.opener,
    )


async def serve(settings: Settings) -> Tally:
    """Serve the queues until SIGTERM or SIGINT drains; a second signal stops the experiments as well."""
    async with opened_daemon(settings) as daemon:
        return await daemon.run()


@asynccontextmanager
async def opened_daemon(settings: Settings, listeners: Sequence[Reporter] = ()) -> AsyncIterator[Daemon]:
    """A daemon with all it works with, which obeys signals; `listeners` hear of its events."""
    identity = identify()
    responses = responses_of(settings.trust)
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(opened_host(settings, identity, [*listeners, *responses]))
        opening = opened_brokers(settings.queues, settings.places.queue_root, identity.runner)
        brokers = await stack.enter_async_context(opening)
        for reporter in responses:  # they go out by the brokers, and the last of them before those are closed
            await stack.enter_async_context(reporter.sending(ResponseQueues(brokers, settings.queues)))
        if settings.containers.use != "refused":
            await _containers_tried(host.readiness)
        daemon = Daemon(host, brokers)
        with _obeying_signals(daemon):
            yield daemon


async def _containers_tried(readiness: Readiness) -> None:
    """Before messages are looked at: which of them are for others depends on it. Said once, here."""
    await readiness.tried()
    try:
        readiness.runtime()
    except EnvironmentFailedError as error:
        log.info("%s; experiments that bring a container image are left to others. %s", error, error.hint)


@contextmanager
def _obeying_signals(daemon: Daemon) -> Iterator[None]:
    """The first signal drains, the next one stops."""
    loop = asyncio.get_running_loop()
    wishes = iter((daemon.drain,))

    def obey(number: signal.Signals) -> None:
        wish = next(wishes, daemon.stop)
        log.warning("%s: %s", number.name, (wish.__doc__ or "").strip())
        wish()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, obey, number)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
