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


NO_GPUS = GpuNeed()


@dataclass(frozen=True)
class Need:
    """A share of cores, memory and disk, and GPUs."""

    share: Capacity = NOTHING
    gpus: GpuNeed = NO_GPUS


NO_NEED = Need()
