"""How many slots a card has: a measure of its throughput (INTERFACE section 3).

The old cards have the numbers of the interface. For newer ones there is none that clients agree on; these lie near
the geometric mean of two ratios to an A100, of dense 16-bit arithmetic and of memory bandwidth, and are the
operator's to change (`gpus.slots`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from studio_runner.machine.gpus.card import Card

UNKNOWN = 4
"""Of a card that the table does not know."""

OLD: Mapping[str, int] = {
    "GTX 1050": 2, "GTX 1060": 2, "GTX 1070": 2, "GTX 1080": 2, "TITAN X": 2, "TITAN Xp": 2, "RTX 2080 Ti": 2,
    "K80": 2, "P40": 4, "P100": 8, "V100": 16, "A100": 24,
}  # fmt: skip
"""The interface's own."""

DATA_CENTRE: Mapping[str, int] = {
    "A2": 2, "A10": 8, "A10G": 8, "A16": 2, "A30": 12, "A40": 10, "A800": 24, "T4": 4, "L4": 6, "L20": 10,
    "L40": 12, "L40S": 18, "H20": 32, "H100": 48, "H800": 40, "GH200": 56, "H200": 56, "B200": 112,
    "GB200": 112, "B300": 128, "GB300": 128,
}  # fmt: skip
CONSUMER: Mapping[str, int] = {
    "RTX 2060": 2, "RTX 2070": 2, "RTX 2080": 2, "TITAN RTX": 4, "TITAN V": 8,
    "RTX 3050": 2, "RTX 3060": 2, "RTX 3060 Ti": 4, "RTX 3070": 4, "RTX 3070 Ti": 4, "RTX 3080": 6,
    "RTX 3080 Ti": 8, "RTX 3090": 8, "RTX 3090 Ti": 8,
    "RTX 4060": 2, "RTX 4060 Ti": 4, "RTX 4070": 6, "RTX 4070 Ti": 6, "RTX 4080": 8, "RTX 4090": 12,
    "RTX 5050": 2, "RTX 5060": 4, "RTX 5060 Ti": 4, "RTX 5070": 6, "RTX 5070 Ti": 8, "RTX 5080": 10, "RTX 5090": 18,
}  # fmt: skip
WORKSTATION: Mapping[str, int] = {
    "RTX 4000": 2, "RTX 5000": 2, "RTX 6000": 4, "RTX 8000": 4,
    "RTX A2000": 2, "RTX A4000": 4, "RTX A4500": 6, "RTX A5000": 8, "RTX A5500": 8, "RTX A6000": 8,
    "RTX 2000 Ada": 2, "RTX 4000 Ada": 4, "RTX 4500 Ada": 6, "RTX 5000 Ada": 8, "RTX 6000 Ada": 12,
    "RTX PRO 2000": 4, "RTX PRO 4000": 6, "RTX PRO 4500": 8, "RTX PRO 5000": 14, "RTX PRO 6000": 20,
}  # fmt: skip
AMD_INSTINCT: Mapping[str, int] = {
    "MI50": 4, "MI60": 6, "MI100": 12, "MI210": 16, "MI250": 16, "MI250X": 16, "MI300A": 48, "MI300X": 56,
    "MI308X": 24, "MI325X": 64, "MI350X": 120, "MI355X": 128,
}  # fmt: skip
"""MI250 and MI250X are two cards each to the driver; these are the slots of one."""

GROUPS: Mapping[str, Mapping[str, int]] = {
    "Named by the interface": OLD,
    "Data centre": DATA_CENTRE,
    "GeForce and TITAN": CONSUMER,
    "Workstation": WORKSTATION,
    "AMD Instinct": AMD_INSTINCT,
}
_DEFAULTS = [(name, slots) for group in GROUPS.values() for name, slots in group.items()]


def with_slots(card: Card, configured: Iterable[tuple[str, int]] = ()) -> Card:
    """The card with its slots: what the operator says, else the table, else `UNKNOWN`; the longest name that is in
    the card's own wins. An instance has its share of what its GPU would have, unless the operator names its
    profile."""
    table = list(configured)
    own = f"{card.name} MIG {card.profile}"
    if card.profile and (named := _longest(own, [row for row in table if "mig" in _words(row[0])])):
        return replace(card, slots=named)
    whole = _longest(card.name, table) or _longest(card.name, _DEFAULTS) or UNKNOWN
    return replace(card, slots=max(1, int(whole * card.share + 1e-9)))


def is_known(card: Card, configured: Iterable[tuple[str, int]] = ()) -> bool:
    """Whether anything but `UNKNOWN` says how many slots it has."""
    return _longest(card.name, [*configured, *_DEFAULTS]) is not None


def _longest(name: str, table: Sequence[tuple[str, int]]) -> int | None:
    words = _words(name)
    found = [(len(wanted), slots) for key, slots in table if _within(wanted := _words(key), words)]
    return max(found, key=lambda match: match[0])[1] if found else None


def _words(name: str) -> list[str]:
    """`NVIDIA A100-SXM4-80GB` is nvidia, a100, sxm4, 80gb: so A10 is not found in it."""
    return re.findall(r"[a-z0-9.]+", name.lower())


def _within(wanted: list[str], words: list[str]) -> bool:
    """Whether these words stand one after the other among the others."""
    return bool(wanted) and any(words[at : at + len(wanted)] == wanted for at in range(len(words)))
