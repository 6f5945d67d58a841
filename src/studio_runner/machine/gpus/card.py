"""What is known of a GPU, and the seam to whoever knows it: the drivers of NVIDIA and AMD."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

NVIDIA, AMD = "nvidia", "amd"


@dataclass(frozen=True)
class Card:
    """One GPU that experiments can have, or one instance of a GPU that is divided (MIG).

    `uuid` is the name by which CUDA or ROCm takes it, `index` its place in the order of the bus, `memory` in bytes.
    An instance has the UUID of its GPU as `parent`, a `profile` such as `3g.40gb`, its `share` of the GPU's slices,
    and its `instance` ids (GPU instance, compute instance). `ecc`: on, off, or empty where there is none.
    """

    uuid: str
    name: str
    memory: int
    vendor: str = NVIDIA
    index: int = 0
    bus: str = ""
    slots: int = 0
    ecc: str = ""
    parent: str = ""
    profile: str = ""
    share: float = 1.0
    instance: tuple[int, int] = (0, 0)

    @property
    def physical(self) -> str:
        """The UUID of the GPU, also of an instance's."""
        return self.parent or self.uuid

    @property
    def called(self) -> str:
        """For people, in the log and in sentences."""
        what = f"{self.name} {self.profile}".strip() if self.profile not in self.name else self.name
        return f"GPU {self.index} ({what}, {self.uuid})"


@dataclass(frozen=True)
class Condition:
    """One look at a card. `used` bytes of its memory; `processes` that compute on it, with the bytes of each where
    the driver tells; `faults` that a card must not have, a phrase each."""

    used: int
    processes: Mapping[int, int | None] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Usage:
    """What a card does now: percent of the time it computes, degrees Celsius, Watt; None where nobody says."""

    utilisation: int | None = None
    temperature: int | None = None
    power: float | None = None


@dataclass(frozen=True)
class Alarm:
    """A driver has reported a fault of the card `physical`, or of one GPU instance of it."""

    physical: str
    fault: str
    instance: int | None = None

    def concerns(self, card: Card) -> bool:
        return card.physical == self.physical and self.instance in (None, card.instance[0])


class MissingDriverError(Exception):
    """There is no such driver here, or it cannot be used. `broken`: something is here and does not work."""

    def __init__(self, why: str, *, broken: bool) -> None:
        super().__init__(why)
        self.broken = broken


@dataclass(frozen=True)
class Inventory:
    """All cards of one vendor in the order of the bus, instances in place of the GPUs that are divided, slots not
    yet known; and a phrase for each that has to be left out."""

    cards: Sequence[Card] = ()
    left_out: Sequence[str] = ()


class Driver(Protocol):
    """One vendor's driver. Its calls block: for milliseconds where the card is well, for ever where it has hung."""

    @property
    def version(self) -> str: ...

    def inventory(self) -> Inventory: ...

    def condition(self, card: Card) -> Condition: ...

    def usage(self, card: Card) -> Usage: ...

    def listen(self) -> "Listener | None":
        """Somebody who hears of faults as they happen; None where no card reports any."""
        ...

    def close(self) -> None: ...


class Listener(Protocol):
    """Hears what a driver reports by itself. For one thread; closed before the driver is."""

    def hear(self, patience: float) -> Alarm | None:
        """The next fault, or None after `patience` seconds without one."""
        ...

    def close(self) -> None: ...
