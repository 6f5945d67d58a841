"""What holding fifty experiments to their limits costs the runner, with control groups and without."""

import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import psutil

from bench.result import Result
from bench.rig import spread
from studio_runner.process.cgroups.hierarchy import MEMORY, PIDS, find
from studio_runner.testing import installation

EXPERIMENTS, ROUNDS = 50, 3
TARGET = 0.5
"""Percent of a core."""
SCRIPT = """
import os, time
if os.fork() == 0:
    while True:
        time.sleep(1)
block = b"x" * {bytes}
while True:
    with open("log", "a") as file:
        file.write("x" * 10_000)
    time.sleep(1)
"""
MANY_CORES = """
import os, sys
from studio_runner.cli.main import main
os.sched_getaffinity = lambda pid: set(range(64))
sys.exit(main())
"""
NO_LIMITS = {"cpus": 1, "ram": 0, "hdd": 0}
LIMITS = {"cpus": 1, "ram": "60mb", "hdd": "100mb"}


def run(scale: float) -> Iterator[Result]:
    """Each way in turn, several times: what else goes on in the runner comes and goes."""
    seconds = max(10, int(20 * scale))
    ways = {"": Way(NO_LIMITS, ("--cgroups", "off", "--max-processes", "0"))}
    kinds = {"watching": ("--cgroups", "off")}
    if all(map(find().holding, (MEMORY, PIDS))):
        kinds["control groups"] = ("--cgroups", "auto")
    for kind, options in kinds.items():
        ways[f"{kind}, small"] = Way(LIMITS, options)
        ways[f"{kind}, near their limit"] = Way(LIMITS, options, size=40_000_000)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            found[name].append(measured(seconds, way))
    bare = statistics.median(found.pop(""))
    for name, series in found.items():
        used = statistics.median(series)
        yield Result(
            name=f"limits of {EXPERIMENTS} experiments, {name}",
            value=used,
            unit="% of a core",
            bare=bare,
            bare_name="the runner without limits",
            target=f"<= bare + {TARGET} %",
            met=used - bare <= TARGET,
            detail={**spread(series), "over_bare": used - bare, "seconds": seconds},
        )


@dataclass(frozen=True)
class Way:
    """What the experiments ask for, what the runner is told, and the memory that each has in bytes."""

    resources: Mapping[str, object]
    options: tuple[str, ...]
    size: int = 1_000_000


def measured(seconds: int, way: Way) -> float:
    """Percent of a core that the runner takes while they run."""
    with ExitStack() as stack:
        place = stack.enter_context(installation())
        program = place.home / "many_cores.py"
        program.write_text(MANY_CORES)
        daemon = place.start(
            "--log-level", "warning", "--grace", "0", *way.options, program=(sys.executable, str(program), "start")
        )
        stack.callback(_stop, daemon)
        for _ in range(EXPERIMENTS):
            place.submit({"main.py": SCRIPT.format(bytes=way.size)}, resources_needed=way.resources)
        while len(place.processes()) < 2 * EXPERIMENTS:
            time.sleep(0.2)
        time.sleep(5)  # what starting them costs is another figure
        process = psutil.Process(daemon.pid)
        before = sum(process.cpu_times()[:2])
        time.sleep(seconds)
        return (sum(process.cpu_times()[:2]) - before) / seconds * 100


def _stop(daemon: "subprocess.Popen[bytes]") -> None:
    """Twice: drained, then stopped with what runs."""
    for _ in range(2):
        daemon.send_signal(signal.SIGTERM)
        time.sleep(0.5)
    daemon.wait(60)
