"""Who has reserved how much of the machine. All in one event loop: no locks, no awaits between look and take."""

import asyncio
from collections.abc import Callable

from studio_runner.machine.inventory import Capacity
from studio_runner.messages.units import format_size

NOTHING = Capacity(cores=0, memory=0, disk=0)


class Reservation:
    """A share of the machine, given back piece by piece; giving back twice is harmless."""

    def __init__(self, share: Capacity, give_back: Callable[[Capacity], None]) -> None:
        self.share = share
        self._give_back = give_back

    def release_compute(self) -> None:
        """Give back cores and memory (the processes are gone), keep the disk (the files are not)."""
        self._shrink_to(Capacity(cores=0, memory=0, disk=self.share.disk))

    def release(self) -> None:
        """Give back all of it."""
        self._shrink_to(NOTHING)

    def _shrink_to(self, rest: Capacity) -> None:
        freed = _minus(self.share, rest)
        self.share = rest
        if freed != NOTHING:
            self._give_back(freed)


class Ledger:
    """The machine's account: `total` at the start, `free` now."""

    def __init__(self, total: Capacity) -> None:
        self.total = total
        self.free = total
        self.releases = 0
        """How often something was given back so far."""
        self._release = asyncio.Event()

    def fits(self, need: Capacity) -> bool:
        """Whether `need` is free now."""
        free = self.free
        return need.cores <= free.cores and need.memory <= free.memory and need.disk <= free.disk

    def reserve(self, need: Capacity) -> Reservation | None:
        """Take `need` off what is free, or None when it does not fit now."""
        if not self.fits(need):
            return None
        self.free = _minus(self.free, need)
        return Reservation(need, self._freed)

    def shortfalls(self, need: Capacity) -> list[str]:
        """Why `need` can never fit here, a phrase each; empty when it can."""
        found = []
        if need.cores > self.total.cores:
            found.append(f"{need.cores} cores wanted, {self.total.cores} here")
        if need.memory > self.total.memory:
            found.append(f"{format_size(need.memory)} memory wanted, {format_size(self.total.memory)} here")
        if need.disk > self.total.disk:
            found.append(f"{format_size(need.disk)} disk wanted, {format_size(self.total.disk)} here")
        return found

    async def released(self, seen: int) -> None:
        """Return once `releases` is other than `seen`."""
        while self.releases == seen:
            await self._release.wait()

    def _freed(self, amount: Capacity) -> None:
        self.free = Capacity(
            cores=self.free.cores + amount.cores,
            memory=self.free.memory + amount.memory,
            disk=self.free.disk + amount.disk,
        )
        self.releases += 1
        self._release.set()
        self._release = asyncio.Event()


def _minus(a: Capacity, b: Capacity) -> Capacity:
    return Capacity(cores=a.cores - b.cores, memory=a.memory - b.memory, disk=a.disk - b.disk)
