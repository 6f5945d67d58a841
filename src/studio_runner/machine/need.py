"""What one experiment asks of a machine."""

from dataclasses import dataclass

from studio_runner.machine.inventory import NOTHING, Capacity


@dataclass(frozen=True)
class GpuNeed:
    """`slots` measures throughput, all cards together; `cards` is how many, 0: as few as it takes; `memory` is
    bytes of each card. Falsy when no card is wanted, whatever memory is named."""

    slots: int = 0
    cards: int = 0
    memory: int = 0

    def __bool__(self) -> bool:
        return bool(self.slots or self.cards)

    def __le__(self, other: "GpuNeed") -> bool:
        """Whether it asks for no more than `other` in any respect."""
        return self.slots <= other.slots and self.cards <= other.cards and self.memory <= other.memory


NO_GPUS = GpuNeed()


@dataclass(frozen=True)
class Need:
    """A share of cores, memory and disk, and GPUs."""

    share: Capacity = NOTHING
    gpus: GpuNeed = NO_GPUS

    def __le__(self, other: "Need") -> bool:
        """Whether it asks for no more than `other` in any respect."""
        return self.share <= other.share and (not self.gpus or self.gpus <= other.gpus)


NO_NEED = Need()
