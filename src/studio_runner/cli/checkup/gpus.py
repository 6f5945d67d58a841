"""The GPUs that experiments can have, how many slots each has, and whether it is well."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from studio_runner.cli.checkup.finding import Finding, Here, ok, problem, warning
from studio_runner.machine.cards import Assignment
from studio_runner.machine.gpus.card import Card
from studio_runner.machine.gpus.opening import NO_GPUS, Gpus, opened_gpus, warnings
from studio_runner.machine.gpus.pool import Pool
from studio_runner.machine.gpus.slots import UNKNOWN, is_known
from studio_runner.messages.units import format_size

SUBJECT = "GPUs"


@contextmanager
def looked_at(here: Here) -> Iterator[tuple[Gpus, Pool]]:
    """The cards that a runner would have, each after one look at it; none where it is to use none."""
    if here.settings.machine.cpu_only:
        yield NO_GPUS, NO_GPUS.pool(here.settings.gpus)
        return
    with opened_gpus(here.settings.gpus, here.environ) as gpus:
        pool = gpus.pool(here.settings.gpus)
        for place in pool.places.values():
            condition = gpus.drivers[place.card.vendor].condition(place.card)
            place.health.looked_idle(condition, time.monotonic())
        yield gpus, pool


def cards(here: Here) -> Iterator[Finding]:
    if here.settings.machine.cpu_only:
        yield ok(SUBJECT, "not used, as --cpu-only says")
        return
    with looked_at(here) as (gpus, pool):
        for sentence in warnings(gpus, here.environ):
            yield problem(
                SUBJECT, sentence, "See what the driver's own tool (nvidia-smi) says, or start with --cpu-only."
            )
        for vendor, driver in gpus.drivers.items():
            hidden = sum(card.vendor == vendor for card in gpus.machine) - sum(
                card.vendor == vendor for card in gpus.cards
            )
            not_ours = f"; {hidden} of the machine's are not visible to the runner" if hidden else ""
            yield ok(SUBJECT, f"{driver.version}{not_ours}")
        for place in pool.places.values():
            yield _card(place.card, place.health.trouble, here)
        if not gpus.cards:
            absent = "; ".join(str(error) for error in gpus.missing.values())
            yield ok(SUBJECT, f"none for experiments{f' ({absent})' if absent else ''}")


def _card(card: Card, trouble: str, here: Here) -> Finding:
    configured = here.settings.gpus
    has = [f"{card.slots} slots", format_size(card.memory), *([f"ECC {card.ecc}"] if card.ecc else [])]
    shared = f", for up to {configured.fractions} experiments" if configured.fractions > 1 else ""
    words = f"{', '.join(has)}{shared}"
    if trouble:
        return warning(
            card.called, f"{words}; it would be set aside: {trouble}", "It comes back by itself once it is well."
        )
    if not is_known(card, configured.slots):
        mend = f"Say how many slots it has: --gpu-slots '{card.name}=N'."
        return warning(card.called, f"{words}; the card is not in the table, and counts as {UNKNOWN}", mend)
    return ok(card.called, words)


def named(pool: Pool, assignment: Assignment) -> str:
    """The cards of an assignment, for people."""
    part = f"1/{assignment.fraction} of " if assignment.fraction > 1 else ""
    return ", ".join(f"{part}{pool.places[uuid].card.called}" for uuid in assignment.cards)


def troubles(pool: Pool) -> str:
    """Why cards are set aside now."""
    return "; ".join(
        f"{place.card.called}: {place.health.trouble}" for place in pool.places.values() if place.health.trouble
    )
