"""What the daemon costs when it has nothing to do, fresh and after many experiments."""

import time
from collections.abc import Callable, Iterator

import psutil

from bench.result import Result
from bench.rig import MARK, running
from studio_runner.testing import Installation, installation

MEMORY_MB, CPU_PERCENT, GROWTH_PERCENT = 80.0, 0.3, 10.0


def run(scale: float) -> Iterator[Result]:
    amount = max(50, int(500 * scale))
    watched = max(5.0, 30.0 * scale)
    with installation() as made, running(made) as daemon:
        time.sleep(8.0)  # background work of the first experiment ends
        fresh, share = memory(daemon.pid), _idle_cpu(daemon.pid, watched)
        _work(made, amount)
        time.sleep(2.0)
        later = memory(daemon.pid)
    growth = (later / fresh - 1) * 100
    yield Result(
        "idle memory (resident, daemon and helpers)",
        fresh,
        "MB",
        target=f"<= {MEMORY_MB:g} MB",
        met=fresh <= MEMORY_MB,
    )
    yield Result("idle processor", share, "%", target=f"< {CPU_PERCENT:g} %", met=share < CPU_PERCENT)
    yield Result(
        f"memory after {amount} experiments",
        later,
        "MB",
        bare=fresh,
        bare_name="fresh",
        ratio=later / fresh,
        target=f"<= +{GROWTH_PERCENT:g} %",
        met=growth <= GROWTH_PERCENT,
    )


def family(pid: int) -> list[psutil.Process]:
    daemon = psutil.Process(pid)
    return [daemon, *daemon.children(recursive=True)]


def memory(pid: int) -> float:
    """Megabytes: shared pages of the helper processes count once (PSS)."""
    return sum(_told(process, lambda one: float(one.memory_full_info().pss)) for process in family(pid)) / 1e6


def processor(pid: int) -> float:
    """Seconds so far, of the daemon and its helpers."""
    return sum(_told(process, lambda one: float(sum(one.cpu_times()[:2]))) for process in family(pid))


def _told(process: psutil.Process, ask: Callable[[psutil.Process], float]) -> float:
    """0 for a helper that has just ended."""
    try:
        return ask(process)
    except psutil.NoSuchProcess:
        return 0.0


def _idle_cpu(pid: int, seconds: float) -> float:
    """Percent of one core."""
    before = processor(pid)
    time.sleep(seconds)
    return (processor(pid) - before) / seconds * 100


def _work(made: Installation, amount: int) -> None:
    workspace = made.workspace({"main.py": MARK})
    messages = [made.request(workspace) for _ in range(amount)]
    for _, body in messages:
        made.publish(body)
    for key, _ in messages:
        made.wait(key)
