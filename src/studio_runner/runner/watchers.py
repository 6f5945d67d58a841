"""What can end an attempt's work from outside: time, a person, the lease, memory, disk. Each raises `Halt`."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from studio_runner.errors import (
    BrokerError,
    ExperimentError,
    LeaseLostError,
    QueueDeletedError,
    Reason,
    StudioRunnerError,
    SupersededError,
)
from studio_runner.messages.units import format_duration, format_size
from studio_runner.process.limits import disk_usage
from studio_runner.queues.base import Delivery
from studio_runner.runner.fence import Fence
from studio_runner.runner.halt import Halt
from studio_runner.runner.outcome import Outcome, of_reason, superseded

log = logging.getLogger(__name__)


async def time_limit(seconds: float) -> None:
    """`max_duration`, counted from the attempt's start."""
    await asyncio.sleep(seconds)
    raise Halt(of_reason(Reason.TIMED_OUT, f"The limit was {format_duration(seconds)}."))


async def lifetime(deadline: float) -> None:
    """`experimentLifetime`: `deadline` is Unix time."""
    while (left := deadline - time.time()) > 0:  # noqa: ASYNC110
        await asyncio.sleep(min(left, 60.0))  # the wall clock may be set meanwhile: there is no event for that
    raise Halt(of_reason(Reason.EXPIRED))


async def asked(wish: "asyncio.Future[Outcome]") -> None:
    """The runner itself wants the attempt to end (drain, shutdown, a stop over HTTP)."""
    raise Halt(await asyncio.shield(wish))


async def stop_request(requested: Callable[[], Awaitable[bool]], period: float) -> None:
    """The `_status` artifact or the experiment's record, written by the experimenter's client."""
    while True:
        await asyncio.sleep(period)
        with contextlib.suppress(StudioRunnerError):  # it cannot be read now: the next look may
            if await requested():
                raise Halt(of_reason(Reason.STOPPED))


async def lease(delivery: Delivery, fence: Fence | None, period: float) -> None:
    """Renew the lease; without it nothing of this attempt counts. Deleting a queue stops its experiments.

    A broker out of reach tells nothing; then the fence says whether another attempt has begun.
    """
    while True:
        await asyncio.sleep(period)
        try:
            await delivery.extend()
        except QueueDeletedError as error:
            raise Halt(of_reason(Reason.STOPPED, f"({error})")) from error
        except LeaseLostError as error:
            raise Halt(of_reason(Reason.LEASE_LOST)) from error
        except BrokerError as error:
            log.warning("the lease cannot be looked after now: %s", error)
            await _still_ours(fence)


async def _still_ours(fence: Fence | None) -> None:
    try:
        if fence:
            await fence.hold()
    except SupersededError as error:
        raise Halt(superseded()) from error
    except ExperimentError as error:
        log.warning("nor can the store be asked: %s", error)  # before results go out it is asked again


async def disk(directory: Path, limit: int) -> None:
    """`hdd`, over all that is in the attempt's directory; looks more often the nearer it gets."""
    pause = 0.25
    while True:
        await asyncio.sleep(pause)
        started = time.monotonic()
        used = await asyncio.to_thread(disk_usage, directory)
        if used > limit:
            detail = f"It asked for {format_size(limit)} (hdd) and had {format_size(used)} on disk."
            raise Halt(of_reason(Reason.DISK_EXCEEDED, detail))
        cost = time.monotonic() - started
        pause = max(20 * cost, 0.25 if used > limit / 2 else 1.0)
