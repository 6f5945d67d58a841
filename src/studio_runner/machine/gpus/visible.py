"""Which cards are visible: of the machine's to this runner, and of this runner's to an experiment.

`CUDA_VISIBLE_DEVICES` and its like are read as CUDA reads them: indices, UUIDs or unique beginnings of UUIDs, with
commas in between; the list ends at the first entry that means no card, or one that was named before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from studio_runner.machine.cards import Assignment
from studio_runner.machine.gpus.card import AMD, NVIDIA, Card

NONE = "-1"
_OLD_INSTANCE = "MIG-GPU-"


def visible(cards: Sequence[Card], environ: Mapping[str, str]) -> list[Card]:
    """Those of the machine's cards that this process was given; all of them where nothing says otherwise.

    Indices count in the order of the bus. CUDA counts so with `CUDA_DEVICE_ORDER=PCI_BUS_ID`; otherwise it puts the
    fastest card first, which nobody else can tell where the cards differ (`order_is_certain`).
    """
    nvidia = [card for card in cards if card.vendor == NVIDIA]
    amd = [card for card in cards if card.vendor == AMD]
    return [
        *_chosen(nvidia, environ.get("CUDA_VISIBLE_DEVICES")),
        *_chosen(_recounted(_chosen(amd, environ.get("ROCR_VISIBLE_DEVICES"))), environ.get("HIP_VISIBLE_DEVICES")),
    ]


def order_is_certain(cards: Sequence[Card], environ: Mapping[str, str]) -> bool:
    """Whether the indices in `CUDA_VISIBLE_DEVICES`, if there are any, can only mean the cards that we take."""
    said = environ.get("CUDA_VISIBLE_DEVICES", "")
    if not any(entry.strip().isdecimal() for entry in said.split(",")):
        return True
    alike = len({card.name for card in cards if card.vendor == NVIDIA}) < 2
    return alike or environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"


def variables(assignment: Assignment) -> dict[str, str]:
    """What lets an experiment see its cards and no others."""
    names = ",".join(assignment.cards) or NONE
    ours, others = (names, NONE) if assignment.vendor == NVIDIA else (NONE, names)
    # HIP counts among what ROCr leaves it
    places = ",".join(map(str, range(len(assignment.cards)))) if others != NONE else NONE
    return {
        "CUDA_VISIBLE_DEVICES": ours,
        "NVIDIA_VISIBLE_DEVICES": ours,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "ROCR_VISIBLE_DEVICES": others,
        "HIP_VISIBLE_DEVICES": places,
    }


def _recounted(cards: Sequence[Card]) -> list[Card]:
    """HIP counts among what ROCr left it."""
    return [replace(card, index=place) for place, card in enumerate(cards)]


def _chosen(cards: Sequence[Card], said: str | None) -> list[Card]:
    if said is None:
        return list(cards)
    found: list[Card] = []
    for entry in said.split(","):
        named = _named(cards, entry.strip())
        if not named or any(card in found for card in named):
            break
        found += named
    return found


def _named(cards: Sequence[Card], entry: str) -> list[Card]:
    """What one entry means: a card, or all instances of a GPU that is divided; empty when it means nothing."""
    if entry.isdecimal() and entry.isascii():
        return [card for card in cards if card.index == int(entry)]
    if entry.startswith(_OLD_INSTANCE):
        return _old_instance(cards, entry.removeprefix("MIG-"))
    return _unique(cards, entry, lambda card: card.uuid) or _unique(cards, entry, lambda card: card.physical)


def _unique(cards: Sequence[Card], beginning: str, name: Callable[[Card], str]) -> list[Card]:
    """A name, or the beginning of one and no other. `GPU-` alone, or less, names nothing."""
    kind, _, rest = beginning.partition("-")
    if kind not in ("GPU", "MIG") or not rest:
        return []
    names = {name(card) for card in cards if name(card).startswith(beginning)}
    return [card for card in cards if name(card) in names] if len(names) == 1 else []


def _old_instance(cards: Sequence[Card], entry: str) -> list[Card]:
    """`GPU-<uuid>/<GPU instance>/<compute instance>`, as drivers before 470 named instances."""
    uuid, *places = entry.split("/")
    try:
        ids = tuple(int(place) for place in places)
    except ValueError:
        return []
    return [card for card in cards if card.parent == uuid and card.instance == ids]
