"""Running one request here and now, without a queue (`studio-runner exec`)."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from studio_runner.config.settings import Settings
from studio_runner.errors import Reason
from studio_runner.machine.need import NO_NEED, Need
from studio_runner.process.follow import follow
from studio_runner.process.hidden import opened_places
from studio_runner.queues.base import Ticket
from studio_runner.reports.base import Ended, Event, Started
from studio_runner.runner.attempt import Attempt
from studio_runner.runner.host import Host, identify
from studio_runner.runner.intake import Admission, need_of
from studio_runner.runner.opener import Reading
from studio_runner.runner.opening import opened_host
from studio_runner.runner.outcome import Outcome, of_reason

log = logging.getLogger(__name__)

QUEUE = "(no queue)"


@dataclass(frozen=True)
class Handed:
    """A delivery that came from no queue: there is nothing to settle and nobody to lose it to."""

    body: bytes
    ticket: Ticket
    queue: str = QUEUE
    attempts: int = 0
    redelivered: bool = False

    async def extend(self) -> None:
        pass

    async def ack(self) -> None:
        pass

    async def requeue(self, delay: float = 0.0, *, charge: bool = True, reason: str = "") -> None:
        pass

    async def dead_letter(self, reason: str) -> None:
        pass


@dataclass
class Listener:
    """A reporter that passes the experiment's output on while it is written."""

    on_output: Callable[[bytes], None]
    over: asyncio.Event = field(default_factory=asyncio.Event)
    following: "asyncio.Task[None] | None" = None

    async def report(self, event: Event) -> None:
        if isinstance(event, Started) and event.subject.directory:
            self.following = asyncio.create_task(self._follow(event.subject.directory), name="follow output")
        elif isinstance(event, Ended):
            self.over.set()
            if self.following:
                await self.following

    async def _follow(self, directory: Path) -> None:
        with opened_places(directory) as hidden:
            async for piece in follow(directory / "output" / "output", done=self.over.is_set, hidden=hidden):
                self.on_output(piece)


async def execute(settings: Settings, body: bytes, *, on_output: Callable[[bytes], None] | None = None) -> Outcome:
    """Run the request to its outcome; resources are limited as always, but not waited for. Whoever has it at hand
    need not be its sender: signatures are not asked for, and clear text is read.

    Cancelled, it stops the script and delivers what there is before it lets go.
    """
    listeners = [Listener(on_output)] if on_output else []
    trust = replace(settings.trust, clear_text_messages=True, request_signatures_dir=None)
    async with opened_host(replace(settings, trust=trust), identify(), listeners) as host:
        ticket = _admission(host, body)
        return await _to_its_end(Attempt(host, Handed(body, ticket), ticket))


async def _to_its_end(attempt: Attempt) -> Outcome:
    running = asyncio.create_task(attempt.run(), name=f"attempt {attempt.key}")
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        attempt.stop(of_reason(Reason.STOPPED))
        await running
        raise


def _admission(host: Host, body: bytes) -> Admission:
    reading = host.opener.read(QUEUE, body) or Reading(body)
    cpu_only = host.settings.machine.cpu_only
    need = need_of(reading.request.resources, cpu_only=cpu_only) if reading.request else NO_NEED
    reservation = host.ledger.reserve(need) or host.ledger.reserve(Need(gpus=need.gpus))
    if reservation is None:
        why = host.ledger.shortfalls(Need(gpus=need.gpus)) or ["none that are well"]
        log.warning("it runs without the GPUs that it asks for: %s", "; ".join(why))
        reservation = host.ledger.reserve(NO_NEED)
    assert reservation  # noqa: S101 - nothing always fits
    again = replace(reading, sealed=False)  # whoever has the message at hand may run it as often as they like
    return Admission(again, reservation, cancelled=lambda: None)
