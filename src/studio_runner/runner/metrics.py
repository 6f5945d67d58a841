"""Samples of what an experiment uses, one JSON object per line, in its `_metrics` artifact."""

import asyncio
import json
import logging
import os
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path

from studio_runner.process.limits import TreeUsage, disk_usage, sample
from studio_runner.process.regular import open_regular
from studio_runner.process.spawn import Process
from studio_runner.runner.trial import Trial

log = logging.getLogger(__name__)

METRICS = "_metrics"


def samples(trial: Trial, process: Process) -> list[Coroutine[None, None, None]]:
    """An endless loop every `saveMetricsFrequency`; none when the request names no period or no `_metrics`."""
    period = trial.request.metrics_period
    return [_every(trial, process, period)] if period and trial.artifacts.has(METRICS) else []


async def _every(trial: Trial, process: Process, period: float) -> None:
    path = trial.directory / METRICS / f"attempt-{trial.subject.number}.jsonl"
    while True:
        await asyncio.sleep(period)
        pids = process.pids()
        usage = sample(pids)
        gpus = await trial.host.gpus.usage(trial.reservation.gpus, pids)
        disk = await asyncio.to_thread(disk_usage, trial.directory)
        await asyncio.to_thread(_append, path, _line(trial, usage, disk, gpus))


def _line(trial: Trial, usage: TreeUsage, disk: int, gpus: Sequence[Mapping[str, object]]) -> str:
    """Times in seconds, sizes in bytes; GPUs only where the experiment has some."""
    now = time.time()
    document = {
        "time": now,
        "elapsed": now - trial.started_at,
        "memory": usage.rss,
        "cpu_seconds": usage.cpu_seconds,
        "processes": usage.processes,
        "disk": disk,
        **({"gpus": gpus} if gpus else {}),
    }
    return json.dumps(document) + "\n"


def _append(path: Path, line: str) -> None:
    """A sample that cannot be written is left out: the disk may be full, or the script has put a link there."""
    try:
        descriptor = open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        if descriptor is None:
            log.warning("no metrics are written: %s is no regular file any more", path)
            return
        with os.fdopen(descriptor, "a") as file:
            file.write(line)
    except OSError as error:
        log.warning("metrics cannot be written: %s", error)
