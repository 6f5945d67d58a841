"""What it takes to decide who gets which GPUs, on a machine with sixteen of them and two hundred experiments."""

import statistics
import time
from collections.abc import Iterator

from bench.result import Result
from bench.rig import spread
from studio_runner.machine.cards import Cards
from studio_runner.machine.gpus.card import Card
from studio_runner.machine.gpus.health import Patience
from studio_runner.machine.gpus.pool import Pool
from studio_runner.machine.inventory import Capacity
from studio_runner.machine.ledger import Ledger
from studio_runner.machine.need import NO_GPUS, GpuNeed, Need

TARGET_US = 1000.0
CARDS, RUNNING = 16, 200
FRACTIONS = 16
"""Experiments that may share a card, so that two hundred can have one."""
ONE_CORE = Capacity(cores=1, memory=0, disk=0)
MODELS = (("Tesla T4", 16, 4), ("NVIDIA L40S", 48, 18), ("NVIDIA A100-SXM4-80GB", 80, 24), ("NVIDIA H100", 80, 48))
TOTAL = Capacity(cores=10_000, memory=10**13, disk=10**13)
NEEDS = (
    GpuNeed(slots=1, memory=4 << 30),
    GpuNeed(slots=24),
    GpuNeed(slots=20, cards=2, memory=40 << 30),
    GpuNeed(slots=200),
    GpuNeed(slots=60, cards=4),
    GpuNeed(slots=1000),
)


def run(scale: float) -> Iterator[Result]:
    rounds = max(50, int(1000 * scale))
    whole, shared = machine(fractions=1), machine(fractions=FRACTIONS)
    fill(whole, gpus=8)
    fill(shared, gpus=RUNNING)
    bare = statistics.median(_sorting(whole.cards) for _ in range(rounds))
    for name, ledger in (("whole cards", whole), ("shared cards", shared)):
        series = [[decision(ledger, need) for _ in range(rounds)] for need in NEEDS]
        ours = max(series, key=statistics.median)  # of what is asked for, that which takes longest
        value = statistics.median(ours)
        yield Result(
            f"GPU decision, {CARDS} GPUs and {RUNNING} running: {name}",
            value,
            "us",
            bare=bare,
            bare_name=f"sorting {CARDS} cards",
            ratio=value / bare,
            target=f"< {TARGET_US:g} us",
            met=value < TARGET_US,
            detail=spread(ours),
        )


def machine(fractions: int) -> Ledger:
    """A machine with four models of cards, four of each."""
    cards = [
        Card(uuid=f"GPU-{place:02}", name=name, memory=gib << 30, index=place, slots=slots)
        for place, (name, gib, slots) in enumerate(model for model in MODELS for _ in range(CARDS // len(MODELS)))
    ]
    return Ledger(TOTAL, Pool(cards, Patience(30.0, 600.0), fractions))


def fill(ledger: Ledger, gpus: int) -> None:
    """So many experiments with a GPU, or a part of one, and the rest without."""
    for number in range(RUNNING):
        need = GpuNeed(cards=1) if number < gpus else NO_GPUS
        assert ledger.reserve(Need(ONE_CORE, need))


def decision(ledger: Ledger, gpus: GpuNeed) -> float:
    """Microseconds for all that may be asked about one message: does it fit now, would it when everything that runs
    is over, and the reservation with its end."""
    need = Need(ONE_CORE, gpus)
    started = time.perf_counter()
    if not ledger.shortfalls(need):
        ledger.fits(need)
        ledger.fits(need, ledger.held)
        if reservation := ledger.reserve(need):
            reservation.release()
    return (time.perf_counter() - started) * 1e6


def _sorting(cards: Cards) -> float:
    assert isinstance(cards, Pool)
    listed = cards.cards
    started = time.perf_counter()
    sorted(listed, key=lambda card: (card.slots, card.memory))
    return (time.perf_counter() - started) * 1e6
