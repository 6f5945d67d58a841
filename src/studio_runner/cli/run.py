"""`studio-runner run`."""

import asyncio
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from studio_runner.cli.discretion import keep_memory
from studio_runner.cli.experiments import (
    SCRIPT_CONTEXT,
    busy,
    experiment_options,
    order_of,
    say,
    script_arguments,
    write_output,
)
from studio_runner.cli.front import front_of
from studio_runner.cli.options import with_settings
from studio_runner.cli.session import Session
from studio_runner.config.settings import LimitSettings, Settings, TrustSettings
from studio_runner.errors import Reason, UsageError

if TYPE_CHECKING:
    from studio_runner.client.submit import Desk, Order
    from studio_runner.messages.masking import Secrets
    from studio_runner.messages.request import Request
    from studio_runner.queues.local import LocalBroker
    from studio_runner.reports.records import Record
    from studio_runner.runner.daemon import Daemon
    from studio_runner.runner.host import Host

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@click.command(context_settings=SCRIPT_CONTEXT)
@experiment_options
@with_settings("places", "storage", "machine", "gpus", "experiments", "containers")
@script_arguments
@click.pass_obj
def command(
    session: Session, settings: Settings, /, script: str | None, args: tuple[str, ...], **chosen: Any
) -> int:
    """Run SCRIPT of this directory here and now, as an experiment in an environment of its own.

    Prints the script's output and exits with its exit code. SCRIPT is a file of this directory, or pkg::module;
    what follows it goes to the script. Ctrl-C stops the experiment and keeps what it has made.
    """
    keep_memory()
    order = order_of(script, args, chosen)
    if order.hyperparameters:
        raise UsageError("`run` runs one experiment", hint="`studio-runner submit` takes --hyperparam.")
    return asyncio.run(_run(session, settings, order))


async def _run(session: Session, settings: Settings, order: "Order") -> int:
    from studio_runner.client.sealing import in_clear_text
    from studio_runner.client.submit import requests

    queue = f"local_run-{uuid.uuid4().hex[:12]}"
    with front_of(session, settings) as front:
        async with front.opened_holdings_here() as holdings, _opened_queues(settings) as queues:
            desk = front.desk(holdings, queues, say, in_clear_text)  # nobody else serves this queue
            with busy("packaging"):
                [request] = [request async for request in requests(order, desk)]
            own = _settings_for(settings, queue)
            record = await _run_request(own, session.secrets, queue, request, desk)
            await queues.remove(queue)
            _say_end(record, desk)
    return _exit_code(record)


def _opened_queues(settings: Settings) -> "LocalBroker":
    from studio_runner.queues.local import LocalBroker, LocalQueueOptions

    options = LocalQueueOptions(lease=settings.queues.lease, poll=settings.queues.poll)
    return LocalBroker(settings.places.queue_root, options)


async def _run_request(
    settings: Settings, secrets: "Secrets", queue: str, request: "Request", desk: "Desk"
) -> "Record":
    from studio_runner.client.submit import publish
    from studio_runner.runner.contained import is_contained
    from studio_runner.runner.daemon import Daemon
    from studio_runner.runner.host import identify
    from studio_runner.runner.opening import opened_host

    async with opened_host(settings, identify(), secrets=secrets) as host:
        if is_contained(request):
            await host.readiness.tried()
        _check_fits(request, host)
        await publish(request, queue, desk)
        return await _attend(Daemon(host, [desk.broker]), request.key, desk)


def _settings_for(settings: Settings, queue: str) -> Settings:
    """Serve the private queue, one experiment, one try: somebody is waiting for the answer. Nobody else puts
    anything on it, so that no signature is asked for."""
    queues = replace(settings.queues, match=f"^{re.escape(queue)}$", mismatch="", deliveries=1)
    limits = LimitSettings(tasks=1, idle_duration=0, interval=0)
    return replace(settings, queues=queues, limits=limits, trust=TrustSettings())


def _check_fits(request: "Request", host: "Host") -> None:
    from studio_runner.runner.intake import need_of

    need = need_of(request.resources, cpu_only=host.settings.machine.cpu_only)
    lacking = host.ledger.shortfalls(need)
    if why := [*lacking, *host.policy(request)]:
        elsewhere = "`studio-runner submit` it to a queue that"
        raise UsageError(
            f"The experiment cannot run on this machine: {'; '.join(why)}",
            hint=f"Ask for less, or {elsewhere} a larger machine serves."
            if lacking
            else f"{elsewhere} a runner serves which takes it.",
        )


async def _attend(daemon: "Daemon", key: str, desk: "Desk") -> "Record":
    """Serve the queue and follow the output until the experiment is over, wherever it ran: another runner of this
    queue root may have been faster."""
    from studio_runner.client.watch import follow_output

    async with asyncio.TaskGroup() as group:
        serving = group.create_task(daemon.run(), name="run the experiment")
        stopping = _Stopping(daemon, key, desk)
        with _on_interrupt(stopping.interrupted):
            record = await follow_output(desk.holdings, key, stopping.write)
            daemon.drain()
            await serving
            await stopping.done()
    return record


class _Stopping:
    """What Ctrl-C does: first the negotiated stop, then an end to the negotiation, then (Python's own) an end to
    everything. A reader of the output that has gone away is a first Ctrl-C."""

    def __init__(self, daemon: "Daemon", key: str, desk: "Desk") -> None:
        self._daemon, self._key, self._desk = daemon, key, desk
        self._asking: asyncio.Task[None] | None = None
        self._reader_gone = False

    def interrupted(self) -> None:
        if self._asking is None:
            say("stopping the experiment; what it has made is kept (Ctrl-C again: kill it)")
            self._asking = asyncio.create_task(self._stop(), name="stop the experiment")
            return
        for attempt in self._daemon.attempts:
            if attempt.trial is not None and attempt.trial.process is not None:
                attempt.trial.process.kill()
        _default_interrupt()

    def write(self, piece: bytes) -> None:
        """The experiment's output, for as long as somebody reads it."""
        if self._reader_gone:
            return
        try:
            write_output(piece)
        except BrokenPipeError:
            self._reader_gone = True
            if self._asking is None:
                self.interrupted()

    async def done(self) -> None:
        """The stop, if there was one, has been told; BrokenPipeError when it was for want of a reader."""
        if self._asking is not None:
            await self._asking
        if self._reader_gone:
            raise BrokenPipeError

    async def _stop(self) -> None:
        """The attempt here; without one, the experiment waits or another runner has it."""
        from studio_runner.client.stop import stop
        from studio_runner.runner.outcome import of_reason

        for attempt in self._daemon.attempts:
            attempt.stop(of_reason(Reason.STOPPED))
        record = await self._desk.records.read(self._key)
        if record is not None and not self._daemon.attempts:
            await stop(record, self._desk.records, self._desk.broker, self._desk.holdings.opener)


@contextmanager
def _on_interrupt(act: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in _INTERRUPTS:
        loop.add_signal_handler(number, act)
    try:
        yield
    finally:
        _default_interrupt()


def _default_interrupt() -> None:
    loop = asyncio.get_running_loop()
    for number in _INTERRUPTS:
        loop.remove_signal_handler(number)


def _say_end(record: "Record", desk: "Desk") -> None:
    from studio_runner.client.view import summary
    from studio_runner.messages.units import format_duration

    took = summary(record, record.time("time_finished") or 0.0).duration
    sentence = "" if record.reason == Reason.COMPLETED else f": {record.own.get('sentence')}"
    time = f" after {format_duration(took)}" if took is not None else ""
    place = desk.holdings.stores.address(f"experiments/{record.key}").removeprefix("file://")
    say(f"{record.reason or record.status}{time}{sentence}")
    say(f"results: {place} (studio-runner show {record.key})")


def _exit_code(record: "Record") -> int:
    """130 after Ctrl-C, else what `exec` would return: the script's own, or what the reason says."""
    from studio_runner.runner.outcome import Outcome

    if record.reason == Reason.STOPPED:
        return 128 + signal.SIGINT
    reason = Reason(record.reason or Reason.SYSTEM_ERROR)
    code, number = record.own.get("exit_code"), record.own.get("signal")
    return Outcome(reason, "", exit_code=code, signal=number).script_exit
