"""GPUs for simulations: whole cards, the smallest that will do, no hardware."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from studio_runner.machine.cards import NO_ASSIGNMENT, Assignment
from studio_runner.machine.need import NO_GPUS, GpuNeed


@dataclass(frozen=True, order=True)
class Card:
    slots: int
    memory: int
    name: str


class WholeCards:
    """The ledger's side of some cards. A card that is not free is in nobody's way but its owner's."""

    def __init__(self, cards: Iterable[Card]) -> None:
        self._all = {card.name: card for card in cards}
        self.free = set(self._all.values())

    def fits(self, need: GpuNeed, after: Collection[Assignment] = (), besides: GpuNeed = NO_GPUS) -> bool:
        taken = self._choice(besides, self.free)
        if taken is None:
            return False
        back = {self._all[name] for assignment in after for name in assignment.cards}
        return self._choice(need, (self.free - set(taken)) | back) is not None

    def take(self, need: GpuNeed) -> Assignment | None:
        chosen = self._choice(need, self.free)
        if chosen is None:
            return None
        assert self.free.issuperset(chosen)
        self.free -= set(chosen)
        return Assignment(tuple(card.name for card in chosen)) if chosen else NO_ASSIGNMENT

    def give_back(self, assignment: Assignment) -> None:
        returned = {self._all[name] for name in assignment.cards}
        assert not self.free & returned, "given back twice"
        self.free |= returned

    def shortfall(self, need: GpuNeed) -> str | None:
        return None if self._choice(need, set(self._all.values())) is not None else "not that many cards"

    def _choice(self, need: GpuNeed, free: set[Card]) -> list[Card] | None:
        if not need:
            return []
        suited = sorted(card for card in free if card.memory >= need.memory)
        least = max([1, need.cards, *(math.ceil(need.slots / card.slots) for card in suited[-1:])])
        return suited[:least] if len(suited) >= least else None
