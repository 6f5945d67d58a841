"""What holding fifty experiments to their limits costs the runner, with control groups and without."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import psutil

from bench.result import Result
from studio_runner.process.cgroups.hierarchy import MEMORY, PIDS, find
from studio_runner.testing import installation

EXPERIMENTS = 50
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
    seconds = max(10, int(60 * scale))
    bare = measured(seconds, NO_LIMITS, "--cgroups", "off", "--max-processes", "0")
    ways = {"watching": ("--cgroups", "off")}
    if all(map(find().holding, (MEMORY, PIDS))):
        ways["control groups"] = ("--cgroups", "auto")
    for name, options in ways.items():
        for what, size in (("small", 1_000_000), ("near their limit", 40_000_000)):
            used = measured(seconds, LIMITS, *options, size=size)
            yield Result(
                name=f"limits of {EXPERIMENTS} experiments, {name}, {what}",
                value=used,
                unit="% of a core",
                bare=bare,
                bare_name="the runner without limits",
                target=f"<= bare + {TARGET} %",
                met=used - bare <= TARGET,
                detail={"over_bare": used - bare, "seconds": seconds},
            )


def measured(seconds: int, resources: Mapping[str, object], *options: str, size: int = 1_000_000) -> float:
    """Percent of a core that the runner takes while they run."""
    with ExitStack() as stack:
        place = stack.enter_context(installation())
        program = place.home / "many_cores.py"
        program.write_text(MANY_CORES)
        daemon = place.start(
            "--log-level", "warning", "--grace", "0", *options, program=(sys.executable, str(program), "start")
        )
        stack.callback(_stop, daemon)
        for _ in range(EXPERIMENTS):
            place.submit({"main.py": SCRIPT.format(bytes=size)}, resources_needed=resources)
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
