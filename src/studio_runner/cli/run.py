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

from studio_runner.cli.experiments import (
    SCRIPT_CONTEXT,
    busy,
    experiment_options,
    opened_desk,
    order_of,
    say,
    script_arguments,
    write_output,
)
from studio_runner.cli.options import with_settings
from studio_runner.cli.session import Session
from studio_runner.config.settings import LimitSettings, Settings
from studio_runner.errors import ExitCode, NotFoundError, Reason, UsageError

if TYPE_CHECKING:
    from studio_runner.client.submit import Desk, Order
    from studio_runner.messages.request import Request
    from studio_runner.reports.records import Record
    from studio_runner.runner.daemon import Daemon
    from studio_runner.runner.host import Host


@click.command(context_settings=SCRIPT_CONTEXT)
@experiment_options
@with_settings("places", "machine", "experiments")
@script_arguments
@click.pass_obj
def command(session: Session, settings: Settings, /, script: str, args: tuple[str, ...], **chosen: Any) -> int:
    """Run SCRIPT of this directory here and now, as an experiment in an environment of its own.

    Prints the script's output and exits with its exit code. SCRIPT is a file of this directory, or pkg::module;
    what follows it goes to the script. Ctrl-C stops the experiment and keeps what it has made.
    """
    order = order_of(script, args, chosen)
    if order.hyperparameters:
        raise UsageError("`run` runs one experiment", hint="`studio-runner submit` takes --hyperparam.")
    return asyncio.run(_run(session, settings, order))


async def _run(session: Session, settings: Settings, order: "Order") -> int:
    from studio_runner.client.submit import requests

    async with opened_desk(session, settings, say) as desk:
        with busy("packaging"):
            [request] = [request async for request in requests(order, desk)]
        record = await _run_request(settings, request, desk)
        _say_end(record, desk)
    return _exit_code(record)


async def _run_request(settings: Settings, request: "Request", desk: "Desk") -> "Record":
    from studio_runner.client.submit import publish
    from studio_runner.runner.daemon import Daemon
    from studio_runner.runner.host import identify
    from studio_runner.runner.opening import opened_host

    queue = f"local_run-{uuid.uuid4().hex[:12]}"
    own = _settings_for(settings, queue)
    async with opened_host(own, identify()) as host:
        _check_fits(request, host)
        await publish(request, queue, desk)
        record = await _attend(Daemon(host, desk.broker), request.key, desk)
        await desk.broker.remove(queue)
        return record


def _settings_for(settings: Settings, queue: str) -> Settings:
    """Serve the private queue, one experiment, one try: somebody is waiting for the answer."""
    queues = replace(settings.queues, match=f"^{re.escape(queue)}$", mismatch="", deliveries=1)
    return replace(settings, queues=queues, limits=LimitSettings(tasks=1, idle_duration=0, interval=0))


def _check_fits(request: "Request", host: "Host") -> None:
    from studio_runner.runner.intake import never_fits

    if why := never_fits(request, host.ledger, cpu_only=host.settings.machine.cpu_only):
        raise UsageError(
            f"The experiment cannot run on this machine: {'; '.join(why)}",
            hint="Ask for less, or `studio-runner submit` it to a queue that a larger machine serves.",
        )


async def _attend(daemon: "Daemon", key: str, desk: "Desk") -> "Record":
    """Serve the queue and follow the output until the experiment is over, wherever it ran: another runner of this
    queue root may have been faster."""
    from studio_runner.client.watch import follow_output

    async with asyncio.TaskGroup() as group:
        serving = group.create_task(daemon.run(), name="run the experiment")
        stopping = _Stopping(daemon, key, desk)
        with _on_interrupt(stopping.interrupted):
            record = await follow_output(desk.records, key, write_output)
            daemon.drain()
            await serving
            await stopping.told()
    return record


class _Stopping:
    """What Ctrl-C does: first the negotiated stop, then the end."""

    def __init__(self, daemon: "Daemon", key: str, desk: "Desk") -> None:
        self._daemon, self._key, self._desk = daemon, key, desk
        self._main = asyncio.current_task()
        self._asking: asyncio.Task[None] | None = None

    def interrupted(self) -> None:
        from studio_runner.runner.outcome import of_reason

        if self._asking is not None:
            if self._main is not None:
                self._main.cancel()
            return
        say("stopping the experiment; what it has made is kept (Ctrl-C again: end at once)")
        for attempt in self._daemon.attempts:
            attempt.stop(of_reason(Reason.STOPPED))
        self._asking = asyncio.create_task(self._ask(), name="ask for the stop")

    async def told(self) -> None:
        if self._asking is not None:
            await self._asking

    async def _ask(self) -> None:
        """For an experiment that waits, or that another runner has."""
        from studio_runner.client.stop import stop

        record = await self._desk.records.read(self._key)
        if record is None:
            raise NotFoundError(f"The record of experiment {self._key} is gone")
        if not self._daemon.attempts:
            await stop(record, self._desk.records, self._desk.broker)


@contextmanager
def _on_interrupt(act: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, act)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _say_end(record: "Record", desk: "Desk") -> None:
    from studio_runner.client.view import summary
    from studio_runner.messages.units import format_duration

    took = summary(record, record.time("time_finished") or 0.0).duration
    sentence = "" if record.reason == Reason.COMPLETED else f": {record.own.get('sentence')}"
    time = f" after {format_duration(took)}" if took is not None else ""
    place = desk.stores.artifacts / "experiments" / record.key
    say(f"{record.reason or record.status}{time}{sentence}")
    say(f"results: {place} (studio-runner show {record.key})")


def _exit_code(record: "Record") -> int:
    """The script's own, 128 + signal; 130 after Ctrl-C; otherwise whether it completed."""
    code, number = record.own.get("exit_code"), record.own.get("signal")
    if record.reason == Reason.STOPPED:
        return 128 + signal.SIGINT
    if isinstance(code, int):
        return code
    if isinstance(number, int):
        return 128 + number
    return ExitCode.DONE if record.reason == Reason.COMPLETED else ExitCode.FAILED
