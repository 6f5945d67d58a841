"""The seam between the ledger and what knows the machine's GPUs."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from studio_runner.machine.need import NO_GPUS, GpuNeed


@dataclass(frozen=True)
class Assignment:
    """The cards of one experiment, by UUID, in the order in which it sees them; all of one vendor (nvidia, amd)."""

    cards: tuple[str, ...] = ()
    vendor: str = "nvidia"
    fraction: int = 1
    """It has one part in this many of each of them, and shares them with others."""


NO_ASSIGNMENT = Assignment()


class Cards(Protocol):
    """All cards of a machine. Nothing here waits: the ledger looks and takes without an await in between."""

    def fits(self, need: GpuNeed, after: Collection[Assignment] = (), besides: GpuNeed = NO_GPUS) -> bool:
        """Whether cards for `need` are free now, or would be if those of `after` were given back; with `besides`,
        whether they would be even if cards for that were taken first, of those that are free now."""
        ...

    def take(self, need: GpuNeed) -> Assignment | None:
        """Cards for `need`, or None when they are not free."""
        ...

    def give_back(self, assignment: Assignment) -> None: ...

    def shortfall(self, need: GpuNeed) -> str | None:
        """Why `need` can never be met here, a phrase; None when it can."""
        ...


class NoCards:
    """A machine without GPUs, or one whose GPUs are not to be used."""

    def fits(self, need: GpuNeed, after: Collection[Assignment] = (), besides: GpuNeed = NO_GPUS) -> bool:  # noqa: ARG002
        return not need

    def take(self, need: GpuNeed) -> Assignment | None:
        return None if need else NO_ASSIGNMENT

    def give_back(self, assignment: Assignment) -> None:
        pass

    def shortfall(self, need: GpuNeed) -> str | None:
        return f"{max(need.slots, need.cards)} GPU wanted, none here" if need else None
