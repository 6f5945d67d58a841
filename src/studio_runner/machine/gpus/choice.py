"""Which cards an experiment gets: the smallest that suffice, and several that are alike."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from studio_runner.machine.gpus.card import Card
from studio_runner.machine.need import GpuNeed

Kind = tuple[str, str, int, int]
_Pick = tuple[int, tuple[Card, ...]]
"""Memory and cards."""


def kind(card: Card) -> Kind:
    """Cards of one kind are alike in everything that matters to an experiment."""
    return card.vendor, card.name, card.slots, card.memory


def size(card: Card) -> tuple[int, int, int]:
    """The order from small to large; among cards of one size that of the bus, so that neighbours go together."""
    return card.slots, card.memory, card.index


def joinable(cards: Iterable[Card], need: GpuNeed) -> list[Card]:
    """Those that an experiment can use beside another one: CUDA shows a process one MIG instance and no more."""
    return [card for card in cards if not card.parent and card.memory >= need.memory]


def several(cards: Sequence[Card], need: GpuNeed, count: int) -> list[Card] | None:
    """`count` of the cards, of one vendor, with the slots together: alike where that is possible, and then the
    smallest; else those with the fewest slots in all. None when there are none."""
    usable = sorted(joinable(cards, need), key=size)
    alike = [
        list(group) for _, group in groupby(sorted(usable, key=lambda card: (kind(card), size(card))), key=kind)
    ]
    sufficient = [group for group in alike if len(group) >= count and group[0].slots * count >= need.slots]
    if sufficient:
        return min(sufficient, key=lambda group: size(group[0]))[:count]
    found = [_mixed(of_vendor, need, count) for of_vendor in by_vendor(usable)]
    mixed = [chosen for chosen in found if chosen]
    return min(mixed, key=_total) if mixed else None


def fewest(cards: Sequence[Card], need: GpuNeed) -> int:
    """How few cards of one vendor have the slots together; 0 when not all of them have."""
    found = 0
    for of_vendor in by_vendor(joinable(cards, need)):
        total = 0
        for count, card in enumerate(sorted(of_vendor, key=size, reverse=True), 1):
            total += card.slots
            if total >= need.slots:
                found = min(found or count, count)
                break
    return found


def suffice(cards: Iterable[Card], need: GpuNeed, count: int) -> bool:
    """Whether `count` of the cards, of one vendor, have the slots together."""
    return any(
        len(of_vendor) >= count and sum(sorted(card.slots for card in of_vendor)[-count:]) >= need.slots
        for of_vendor in by_vendor(joinable(cards, need))
    )


def _mixed(cards: Sequence[Card], need: GpuNeed, count: int) -> list[Card] | None:
    """The pick of `count` cards of one vendor with at least the slots and as few more as possible: all sums that
    can be had of so many cards, each with the least memory, card by card."""
    if not suffice(cards, need, count):
        return None
    picks: list[dict[int, _Pick]] = [{0: (0, ())}, *({} for _ in range(count))]
    for card in cards:
        for number in range(count - 1, -1, -1):
            more = picks[number + 1]
            for slots, (memory, chosen) in picks[number].items():
                together, bytes_together = slots + card.slots, memory + card.memory
                if together not in more or bytes_together < more[together][0]:
                    more[together] = bytes_together, (*chosen, card)
    return list(picks[count][min(total for total in picks[count] if total >= need.slots)][1])


def by_vendor(cards: Iterable[Card]) -> list[list[Card]]:
    found: dict[str, list[Card]] = {}
    for card in cards:
        found.setdefault(card.vendor, []).append(card)
    return list(found.values())


def _total(cards: Sequence[Card]) -> tuple[int, int]:
    return sum(card.slots for card in cards), sum(card.memory for card in cards)


def parts(card: Card, need: GpuNeed, fractions: int) -> int:
    """Into how many parts the card is divided for this experiment: `fractions` when a part is enough, 1 when it
    takes the whole card, 0 when even that is too small."""
    if need.cards <= 1 and need.slots * fractions <= card.slots and need.memory * fractions <= card.memory:
        return fractions
    return 1 if need.slots <= card.slots and need.memory <= card.memory else 0


def amount(card: Card, divisor: int) -> tuple[float, float]:
    """What an experiment gets of the card: slots and memory."""
    return card.slots / divisor, card.memory / divisor
