"""Who has which card. Like the ledger's, for one event loop: nothing here waits."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from studio_runner.machine.cards import NO_ASSIGNMENT, Assignment
from studio_runner.machine.gpus.card import Card
from studio_runner.machine.gpus.choice import amount, by_vendor, fewest, joinable, parts, several, size, suffice
from studio_runner.machine.gpus.health import Health, Patience
from studio_runner.machine.need import NO_GPUS, GpuNeed
from studio_runner.messages.units import format_size


class CardState(StrEnum):
    """Whether a card can be had. A card that is set aside may still be in the hands of an experiment."""

    FREE = "free"
    IN_USE = "in_use"
    SETTLING = "settling"
    SET_ASIDE = "set_aside"


@dataclass
class Place:
    """One card, how much of it is taken (in fractions of `fractions`), and how it is."""

    card: Card
    health: Health
    fractions: int
    taken: int = 0

    @property
    def state(self) -> CardState:
        if self.health.trouble:
            return CardState.SET_ASIDE
        if self.taken:
            return CardState.IN_USE
        return CardState.FREE if self.health.well else CardState.SETTLING

    @cached_property
    def order(self) -> tuple[int, int, int]:
        return size(self.card)


class Pool:
    """The cards of this runner (`machine.cards.Cards`). `fractions`: so many experiments may share a card."""

    def __init__(self, cards: Iterable[Card], patience: Patience, fractions: int = 1) -> None:
        found = [Place(card, Health(card, patience), fractions) for card in cards]
        self.places = {place.card.uuid: place for place in found}
        self.fractions = fractions
        self._ascending = sorted(found, key=lambda place: place.order)
        self._vacated: Callable[[Place], None] | None = None

    def tell_when_vacated(self, listener: Callable[[Place], None] | None) -> None:
        """From now on a card is not free when its last experiment gives it back, but when `listener` has looked at
        it (None: no more)."""
        self._vacated = listener

    @property
    def cards(self) -> list[Card]:
        """In the order of the bus."""
        return [place.card for place in self.places.values()]

    def fits(self, need: GpuNeed, after: Collection[Assignment] = (), besides: GpuNeed = NO_GPUS) -> bool:
        taken = self._choose(besides, {}) if besides else NO_ASSIGNMENT
        return taken is not None and (not need or self._choose(need, self._returned(after, taken)) is not None)

    def take(self, need: GpuNeed) -> Assignment | None:
        if not need:
            return NO_ASSIGNMENT
        found = self._choose(need, {})
        if found is None:
            return None
        for uuid in found.cards:
            self.places[uuid].taken += self.fractions // found.fraction
        return found

    def give_back(self, assignment: Assignment) -> None:
        for uuid in assignment.cards:
            place = self.places[uuid]
            place.taken -= self.fractions // assignment.fraction
            if not place.taken and self._vacated:
                place.health.released(time.monotonic())
                self._vacated(place)

    def shortfall(self, need: GpuNeed) -> str | None:
        """Cards that are set aside count: they may be well again."""
        if not need or self._choose_of_all(need):
            return None
        return _why_not(self.cards, need)

    def _choose_of_all(self, need: GpuNeed) -> bool:
        if self._single(need):
            return any(parts(place.card, need, 1) for place in self._ascending)
        count = need.cards or fewest(self.cards, need)
        return bool(count) and suffice(self.cards, need, count)

    def _choose(self, need: GpuNeed, returned: dict[str, int]) -> Assignment | None:
        """Cards of those that are well and not taken, when so much of them as `returned` says were given back."""
        if self._single(need):
            return self._one(need, returned)
        count = need.cards or fewest(self.cards, need)
        idle = [place.card for place in self._ascending if place.health.well and self._taken(place, returned) == 0]
        chosen = several(idle, need, count) if count else None
        if chosen is None:
            return None
        ordered = sorted(chosen, key=lambda card: card.index)
        return Assignment(tuple(card.uuid for card in ordered), ordered[0].vendor)

    def _single(self, need: GpuNeed) -> bool:
        """One card it is to be: it says so, or one card of the machine is enough."""
        if need.cards:
            return need.cards == 1
        return any(parts(card, need, 1) for card in self.cards)

    def _one(self, need: GpuNeed, returned: dict[str, int]) -> Assignment | None:
        """The smallest amount that suffices, and of equal ones that of the card that is shared already."""
        best: tuple[tuple[float, ...], Assignment] | None = None
        for place in self._ascending:
            divisor = parts(place.card, need, self.fractions)
            taken = self._taken(place, returned)
            if not divisor or not place.health.well or taken + self.fractions // divisor > self.fractions:
                continue
            rank = (*amount(place.card, divisor), -taken)
            if best is None or rank < best[0]:
                best = rank, Assignment((place.card.uuid,), place.card.vendor, divisor)
        return best[1] if best else None

    def _returned(self, after: Collection[Assignment], taken: Assignment) -> dict[str, int]:
        """How much of each card the assignments `after` have, less what `taken` has."""
        found: Counter[str] = Counter()
        for assignment in after:
            found.update(self._amounts(assignment))
        found.subtract(self._amounts(taken))
        return found

    def _amounts(self, assignment: Assignment) -> dict[str, int]:
        return dict.fromkeys(assignment.cards, self.fractions // assignment.fraction)

    def _taken(self, place: Place, returned: dict[str, int]) -> int:
        return place.taken - returned.get(place.card.uuid, 0)


def _why_not(cards: Sequence[Card], need: GpuNeed) -> str:
    """The first thing that is not to be had, in figures."""
    wanted = need.cards or 1
    if not cards:
        return f"{max(need.slots, need.cards)} GPU wanted, none here"
    largest = max(card.memory for card in cards)
    if need.memory > largest:
        return f"GPUs with {format_size(need.memory)} wanted (gpuMem), the largest here has {format_size(largest)}"
    single = [card for card in cards if card.memory >= need.memory]
    usable = single if need.cards == 1 else joinable(cards, need)
    with_memory = f" with {format_size(need.memory)}" if need.memory else ""
    if need.cards > max(map(len, by_vendor(usable)), default=0):
        divided = sum(bool(card.parent) for card in cards)
        mig = f" (of {divided} MIG instances an experiment can use one)" if divided else ""
        return f"{wanted} GPUs{with_memory} wanted, {len(usable)} here{mig}"
    together = max((_most(of_vendor, need.cards or len(usable)) for of_vendor in by_vendor(usable)), default=0)
    most = together if need.cards else max(together, _most(single, 1))
    cards_wanted = f" on {wanted} GPU{'' if wanted == 1 else 's'}" if need.cards else ""
    return f"{need.slots} GPU slots{with_memory} wanted{cards_wanted}, at most {most} here"


def _most(cards: Sequence[Card], count: int) -> int:
    """Slots of so many of them together."""
    return sum(sorted((card.slots for card in cards), reverse=True)[:count])
