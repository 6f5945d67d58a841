"""The finish: whatever the outcome, what the experiment produced goes home, and `_results` goes last."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import chain, repeat
from typing import Any

from studio_runner.errors import (
    BrokerError,
    ExperimentError,
    LeaseLostError,
    QueueDeletedError,
    Reason,
    StorageUnavailableError,
    SupersededError,
)
from studio_runner.messages.results import Attempted, results_document
from studio_runner.messages.units import format_duration
from studio_runner.runner.artifacts import OUTPUT
from studio_runner.runner.directory import remove
from studio_runner.runner.outcome import Outcome, from_error, of_reason, superseded
from studio_runner.runner.trial import Trial

log = logging.getLogger(__name__)

WAITS = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Seconds before results are offered again to a store that did not take them; then always the last."""


async def deliver(trial: Trial, outcome: Outcome, is_final: Callable[[Outcome], bool]) -> Outcome:
    """Upload everything, then (for a final outcome) the results; returns what the attempt comes to in the end."""
    patience = trial.host.settings.experiments.finish_timeout
    try:
        async with asyncio.timeout(patience):
            await _require_lease(trial)
            outcome = await _bring_home(trial, outcome)
            await _require_lease(trial)
            if is_final(outcome):
                await _persistently(trial, partial(trial.artifacts.deliver, _document(trial, outcome)))
    except SupersededError:
        return superseded()
    except TimeoutError:
        late = f"the final upload took longer than {format_duration(patience)}"
        return _worse(outcome, from_error(StorageUnavailableError(late)))
    except LeaseLostError:
        return of_reason(Reason.LEASE_LOST)
    except BrokerError as error:  # somebody else may have it
        return of_reason(Reason.SYSTEM_ERROR, f"({error})")
    except ExperimentError as error:
        return _worse(outcome, from_error(error))
    return outcome


async def _require_lease(trial: Trial) -> None:
    """LeaseLostError when somebody else has the experiment. When its queue is gone, nobody has. Where results are
    fenced the store decides, and the broker need not be asked."""
    if not trial.artifacts.fenced:
        with contextlib.suppress(QueueDeletedError):
            await trial.delivery.extend()


async def _persistently(trial: Trial, work: Callable[[], Awaitable[None]]) -> None:
    """Do it again and again while a store across the network does not answer: what took hours to compute is not
    given up for an outage. The time limit of the finish ends it."""
    for wait in chain(WAITS, repeat(WAITS[-1])):
        try:
            await work()
        except StorageUnavailableError as error:
            if not trial.artifacts.remote:
                raise
            log.warning("the results cannot be stored, next try in %g s: %s", wait, error)
        else:
            return
        await asyncio.sleep(wait)


async def _bring_home(trial: Trial, outcome: Outcome) -> Outcome:
    """The final upload. The experiment's own failure beats the upload's; a success without its files is none."""
    if outcome.reason is not Reason.COMPLETED:
        trial.output.note(f"{outcome.reason}: {outcome.sentence}")
    if trial.output.error is not None:
        await asyncio.to_thread(_make_room, trial)
    trial.output.end()
    if trial.output.error is not None and outcome.reason is Reason.COMPLETED:
        outcome = of_reason(Reason.STORAGE_UNAVAILABLE, f"(the output could not be written: {trial.output.error})")
    try:
        await _persistently(trial, partial(trial.upload, trial.artifacts.mutable))
    except ExperimentError as error:
        log.warning("final upload failed: %s", error)
        await _tell(trial, error)
        return _worse(outcome, from_error(error))
    return outcome


async def _tell(trial: Trial, error: ExperimentError) -> None:
    """Into the output, which may have been stored already and may be storable though something else is not."""
    trial.output.note(f"{error.reason}: {from_error(error).sentence}")
    if OUTPUT in trial.artifacts.mutable:
        with contextlib.suppress(ExperimentError):
            await trial.upload([OUTPUT])


def _make_room(trial: Trial) -> None:
    """The disk is full: what was only fetched goes first, so that the output can at least say so."""
    for label, artifact in trial.request.artifacts.items():
        if not artifact.mutable:
            remove(trial.directory / label)


def _worse(outcome: Outcome, trouble: Outcome) -> Outcome:
    """What the attempt comes to when its delivery failed as well."""
    if outcome.reason is Reason.COMPLETED:
        return trouble
    sentence = f"{outcome.sentence} Besides, its files could not all be stored: {trouble.sentence}"
    return Outcome(outcome.reason, sentence, outcome.exit_code, outcome.signal, outcome.transient)


def _document(trial: Trial, outcome: Outcome) -> dict[str, Any]:
    attempted = Attempted(
        host=trial.subject.host,
        number=trial.subject.number,
        started=trial.started_at,
        finished=time.time(),
        hidden=trial.output.cover.document() if trial.output.hidden else None,
    )
    return results_document(trial.request.key, outcome, attempted, trial.artifacts.names())
