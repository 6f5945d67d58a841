"""Ten thousand messages in five hundred queues of RabbitMQ: how soon a runner that starts is at work, and what it
costs."""

import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from bench.daemon import memory, processor
from bench.remote import Cluster, cluster
from bench.result import Result

QUEUES, EACH = 500, 20
READY_SECONDS, MEMORY_MB = 2.0, 120.0
SETTLED = 10.0
"""Seconds after which everything that publishing, or a start, brings with it is over."""
WATCHED = 10.0
PATIENCE = 120.0
SCRIPT = """
import pathlib, sys, time
mark = pathlib.Path(sys.argv[1])
mark.with_suffix(".new").write_text(repr(time.time()))
mark.with_suffix(".new").rename(mark)
time.sleep(600)
"""
"""Says when it ran, and stays: the runner then has nothing free, and the rest of the queues before it."""


def run(scale: float) -> Iterator[Result]:
    queues = max(20, int(QUEUES * scale))
    with cluster() as site:
        with site.running():
            pass  # environments are built
        _fill(site, queues)
        time.sleep(SETTLED)  # the broker still writes
        yield from _measured(site, f"{queues * EACH:,} messages in {queues} queues")


def _fill(site: Cluster, queues: int) -> None:
    workspace = site.workspace(SCRIPT)
    mark = str(_mark(site))
    for number in range(queues):
        name = f"rmq_backlog_{number:03}"
        site.publisher.declare(name)
        site.publisher.publish(name, [site.request(workspace, args=[mark])[1] for _ in range(EACH)])


def _mark(site: Cluster) -> Path:
    return site.made.home / "mark"


def _measured(site: Cluster, what: str) -> Iterator[Result]:
    started = time.time()
    with site.made.daemon(*site.options(), "--max-cores", "1", "--grace", "1s") as daemon:
        ready = _first_line(_mark(site), daemon.pid) - started
        time.sleep(SETTLED)
        start_cpu = processor(daemon.pid)
        used = memory(daemon.pid)
        time.sleep(WATCHED)
        share = (processor(daemon.pid) - start_cpu) / WATCHED * 100
        with suppress(ProcessLookupError):
            daemon.send_signal(signal.SIGTERM)  # once for the drain; the next one stops the experiment
        time.sleep(0.5)
    yield Result(
        f"{what}: start to first line",
        ready,
        "s",
        target=f"< {READY_SECONDS:g} s",
        met=ready < READY_SECONDS,
    )
    yield Result(f"{what}: memory", used, "MB", target=f"< {MEMORY_MB:g} MB", met=used < MEMORY_MB)
    yield Result(f"{what}: processor of the start", start_cpu, "s")
    yield Result(f"{what}: processor while full", share, "%")


def _first_line(mark: Path, pid: int) -> float:
    deadline = time.monotonic() + PATIENCE
    while not mark.exists():
        if time.monotonic() > deadline or not psutil.pid_exists(pid):
            raise TimeoutError(f"no experiment ran within {PATIENCE:g} s of the start")
        time.sleep(0.02)
    return float(mark.read_text())
