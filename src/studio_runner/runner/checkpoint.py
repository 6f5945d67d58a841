"""Checkpoints: mutable artifacts and the metadata go up while the script runs."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Coroutine

from studio_runner.errors import ExperimentError
from studio_runner.reports.base import Checkpointed
from studio_runner.runner.trial import Trial

log = logging.getLogger(__name__)


def checkpoints(trial: Trial) -> list[Coroutine[None, None, None]]:
    """One endless loop per period: `saveWorkspaceFrequency`, or an artifact's own `saveFrequency`."""
    return [_every(trial, period, labels) for period, labels in periods(trial).items()]


def periods(trial: Trial) -> dict[float, list[str]]:
    """Labels by period in seconds; artifacts without one are left to the end."""
    found: defaultdict[float, list[str]] = defaultdict(list)
    for label, artifact in trial.artifacts.mutable.items():
        period = artifact.save_frequency or trial.request.checkpoint_period
        if period:
            found[period].append(label)
    return found


async def _every(trial: Trial, period: float, labels: list[str]) -> None:
    while True:
        await asyncio.sleep(period)
        try:
            await trial.upload(labels)
        except ExperimentError as error:
            # the next checkpoint, and at last the final upload, will try again
            log.warning("checkpoint failed: %s", error)
            trial.output.note(f"checkpoint failed: {error}")
        else:
            await trial.host.reports.report(Checkpointed(trial.subject, time.time(), trial.output.cover))
