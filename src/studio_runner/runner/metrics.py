"""Samples of what an experiment uses, one JSON object per line, in its `_metrics` artifact."""

import asyncio
import json
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path

from studio_runner.process.limits import TreeUsage, disk_usage, sample
from studio_runner.process.spawn import Process
from studio_runner.runner.trial import Trial

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
    with path.open("a") as file:
        file.write(line)
