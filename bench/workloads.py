"""Made-up workloads for a machine of 16 cores, 64 GB and 8 cards, each from a fixed seed."""

import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from studio_runner.machine.inventory import Capacity
from studio_runner.machine.need import NO_GPUS, GpuNeed, Need
from studio_runner.messages.resources import Resources
from studio_runner.messages.units import parse_duration

GB = 10**9
MACHINE = Capacity(cores=16, memory=64 * GB, disk=1000 * GB)
CARDS = 8
LOAD = 1.2
"""Work that arrives, as a multiple of what the machine can do: there is always something to choose from."""


@dataclass(frozen=True)
class Job:
    """An experiment: when it is submitted, what it needs, its time limit (infinite: it names none) and how long it
    really takes; seconds."""

    submitted: float
    need: Need
    limit: float
    duration: float

    @property
    def width(self) -> float:
        """The largest share of the machine that it needs in any respect."""
        share, gpus = self.need.share, self.need.gpus
        return max(share.cores / MACHINE.cores, share.memory / MACHINE.memory, share.disk / MACHINE.disk,
                   gpus.cards / CARDS)  # fmt: skip

    @property
    def area(self) -> float:
        return self.width * self.duration


Sizes = Callable[[random.Random], Need]
Durations = Callable[[random.Random], float]
Limits = Callable[[random.Random, float], float]


def need(cores: int, gigabytes: int = 1, cards: int = 0) -> Need:
    return Need(Capacity(cores, gigabytes * GB, 0), GpuNeed(cards, cards) if cards else NO_GPUS)


def small(draw: random.Random) -> Need:
    return need(draw.randint(1, 2), draw.randint(1, 6))


def small_and_whole(draw: random.Random) -> Need:
    return need(MACHINE.cores) if draw.random() < 0.04 else small(draw)


def all_sizes(draw: random.Random) -> Need:
    cores = draw.choice((1, 1, 1, 2, 2, 4, 8, 16))
    return need(cores, draw.randint(1, 4) * cores)


def with_cards(draw: random.Random) -> Need:
    cards = draw.choice((0, 0, 1, 1, 1, 1, 2, 2, 4, 8))
    return need(max(1, cards) if cards else draw.randint(1, 4), 2, cards)


def minutes(draw: random.Random) -> float:
    """Around ten minutes, half of them between five and twenty."""
    return min(6 * 3600.0, max(10.0, draw.lognormvariate(math.log(600), 1.0)))


def heavy_tailed(draw: random.Random) -> float:
    """Most take minutes, some take most of a day."""
    return min(12 * 3600.0, 120.0 * draw.paretovariate(0.9))


def exact(_draw: random.Random, duration: float) -> float:
    return duration


def generous(draw: random.Random, duration: float) -> float:
    """Up to five times too long."""
    return duration * draw.uniform(1.0, 5.0)


def some_unknown(draw: random.Random, duration: float) -> float:
    return math.inf if draw.random() < 0.3 else generous(draw, duration)


def unknown(_draw: random.Random, _duration: float) -> float:
    return math.inf


@dataclass(frozen=True)
class Mix:
    """A kind of workload; `burst`: how many arrive together."""

    name: str
    sizes: Sizes
    durations: Durations = minutes
    limits: Limits = generous
    burst: int = 1
    seed: int = 1

    def jobs(self, count: int) -> list[Job]:
        draw = random.Random(f"{self.name} {self.seed}")
        made = []
        for _ in range(count):
            duration = self.durations(draw)
            made.append(Job(0.0, self.sizes(draw), self.limits(draw, duration), duration))
        span = sum(job.area for job in made) / LOAD
        at, jobs = 0.0, []
        for index, job in enumerate(made):
            if index % self.burst == 0:
                at += draw.expovariate(count / span) * self.burst
            jobs.append(replace(job, submitted=at))
        return jobs


MIXES = (
    Mix("only small", small),
    Mix("small and whole-machine", small_and_whole, limits=exact),
    Mix("small and whole-machine, estimates 1 to 5 times", small_and_whole),
    Mix("small and whole-machine, bursts of 40", small_and_whole, burst=40),
    Mix("all sizes", all_sizes),
    Mix("all sizes, bursts of 40", all_sizes, burst=40),
    Mix("1 to 8 cards", with_cards),
    Mix("1 to 8 cards, bursts of 40", with_cards, burst=40),
    Mix("all sizes, heavy tail", all_sizes, durations=heavy_tailed),
    Mix("all sizes, 3 in 10 name no limit", all_sizes, limits=some_unknown),
    Mix("all sizes, none names a limit", all_sizes, limits=unknown),
)


def recorded(path: Path) -> list[Job]:
    """The jobs of a recorded workload: a file, whose lines are described in docs/explanation/placement.md, or a
    directory of experiment records. They begin at 0."""
    jobs = list(_recorded(path))
    begin = min(job.submitted for job in jobs)
    return [replace(job, submitted=job.submitted - begin) for job in jobs]


def _recorded(path: Path) -> Iterator[Job]:
    lines = map(traced, path.iterdir()) if path.is_dir() else map(json.loads, path.read_text().splitlines())
    for one in filter(None, lines):
        share = Capacity(one.get("cores", 1), one.get("memory", 0), one.get("disk", 0))
        cards = one.get("gpus", 0)
        limit = one.get("estimate")
        yield Job(
            float(one["submitted"]),
            Need(share, GpuNeed(cards, cards) if cards else NO_GPUS),
            math.inf if limit is None else float(limit),
            float(one["duration"]),
        )


def traced(record: Path) -> dict[str, Any] | None:
    """The line of a trace for an experiment that is over, from its record; None for others."""
    document = json.loads(record.read_bytes())
    started, finished = document.get("time_started"), document.get("time_finished")
    if not started or not finished or not document.get("time_added"):
        return None
    wanted = Resources.model_validate(document.get("resources_needed") or {})
    return {
        "submitted": document["time_added"],
        "cores": max(1, wanted.cpus),
        "memory": wanted.ram,
        "disk": wanted.hdd,
        "gpus": wanted.gpu_count,
        "estimate": parse_duration(document["max_duration"]) if document.get("max_duration") else None,
        "duration": finished - started,
    }
