"""What can end an attempt's work from outside: time, a person, the lease. Each raises `Halt`.

What it may use of the machine is in `bounds`.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from studio_runner.errors import (
    BrokerError,
    ExperimentError,
    LeaseLostError,
    QueueDeletedError,
    Reason,
    StudioRunnerError,
    SupersededError,
)
from studio_runner.messages.units import format_duration
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
    """The `_status` artifact or the experiment's record, written by the experimenter's client, maybe while the
    message still waited."""
    while True:
        with contextlib.suppress(StudioRunnerError):  # it cannot be read now: the next look may
            if await requested():
                raise Halt(of_reason(Reason.STOPPED))
        await asyncio.sleep(period)


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
