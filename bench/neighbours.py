"""A well-behaved experiment beside a fork bomb, a memory hog and a disk filler, and the same experiment alone."""

import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import psutil

from bench.result import Result
from bench.rig import spread
from studio_runner.process.cgroups.hierarchy import MEMORY, PIDS, find
from studio_runner.testing import Installation, installation

TARGET = 1.3
ALLOWED_MB = 20.0
CORES = 4
"""That the runner takes the machine to have: all four are to run at once on small ones too."""
PROGRAM = f"""
import os, sys
from studio_runner.cli.main import main
os.sched_getaffinity = lambda pid: set(range({CORES}))
sys.exit(main())
"""
GOOD = """
import time
started, total = time.time(), 0
for number in range(120_000_000):
    total += number
print(time.time() - started)
"""
BOMB = """
import os, time
for _ in range(11):
    if os.fork() == 0 and os.getpid() % 3 == 0:
        os.setsid()
time.sleep(600)
"""
HOG = """
import os
os.fork()
kept = []
while True:
    kept.append(os.urandom(1 << 20))
"""
FILLER = """
number = 0
while True:
    number += 1
    open(f"file-{number}", "wb").write(bytes(1_000_000))
"""
BAD = {"processes_exceeded": BOMB, "out_of_memory": HOG, "disk_exceeded": FILLER}
SHARE = {"cpus": 1, "ram": "300mb", "hdd": "300mb"}


def run(scale: float) -> Iterator[Result]:
    runs = max(2, int(5 * scale))
    if all(map(find().holding, (MEMORY, PIDS))):
        yield from _figures("control groups", runs, "--cgroups", "auto")
    yield from _figures("watched", runs, "--cgroups", "off")


def _figures(way: str, runs: int, *options: str) -> Iterator[Result]:
    with ExitStack() as stack:
        place = stack.enter_context(installation())
        daemon = _daemon(place, *options)
        stack.callback(_stop, daemon)
        alone = [_seconds(place, {}) for _ in range(runs)]
        memory = psutil.Process(daemon.pid).memory_info().rss
        beside = [_seconds(place, BAD) for _ in range(runs)]
        grown = (psutil.Process(daemon.pid).memory_info().rss - memory) / 1e6
    ratio = statistics.median(beside) / statistics.median(alone)
    yield Result(
        name=f"good experiment beside three bad ones, {way}",
        value=statistics.median(beside),
        unit="s",
        bare=statistics.median(alone),
        bare_name="alone",
        ratio=ratio,
        target=f"<= {TARGET:g} times alone",
        met=ratio <= TARGET,
        detail=spread(beside),
    )
    yield Result(
        name=f"runner's memory after bad experiments, {way}",
        value=grown,
        unit="MB",
        target=f"<= {ALLOWED_MB:g} MB more than before",
        met=grown <= ALLOWED_MB,
    )


def _daemon(place: Installation, *options: str) -> "subprocess.Popen[bytes]":
    program = place.home / "four_cores.py"
    program.write_text(PROGRAM)
    command = (sys.executable, str(program), "start")
    return place.start("--log-level", "warning", "--max-processes", "500", *options, program=command)


def _seconds(place: Installation, bad: Mapping[str, str]) -> float:
    """That the good one takes by its own account, with all the bad ones."""
    keys = {reason: place.submit({"main.py": script}, resources_needed=SHARE) for reason, script in bad.items()}
    good = place.submit({"main.py": GOOD}, resources_needed=SHARE)
    for reason, key in keys.items():
        found = place.wait(key)
        if found.reason != reason:
            raise RuntimeError(f"expected {reason}: {found.exit_msg}")
    place.wait(good)
    return float(place.output(good).split()[-1])


def _stop(daemon: "subprocess.Popen[bytes]") -> None:
    daemon.send_signal(signal.SIGTERM)
    try:
        daemon.wait(60)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
