"""Who has reserved how much of the machine. All in one event loop: no locks, no awaits between look and take."""

import asyncio
from collections.abc import Callable, Collection
from math import inf

from studio_runner.machine.cards import NO_ASSIGNMENT, Assignment, Cards, NoCards
from studio_runner.machine.inventory import NOTHING, Capacity
from studio_runner.machine.need import NO_GPUS, NO_NEED, Need
from studio_runner.messages.units import format_size


class Reservation:
    """A share of the machine, given back piece by piece; giving back twice is harmless. `until`: when it is given
    back at the latest, by the clock of whoever made it; infinite when nobody knows."""

    def __init__(
        self,
        share: Capacity,
        gpus: Assignment,
        give_back: "Callable[[Reservation, Capacity, Assignment], None]",
        until: float = inf,
    ) -> None:
        self.share = share
        self.gpus = gpus
        self.until = until
        self._give_back = give_back

    def release_compute(self) -> None:
        """Give back cores, memory and GPUs (the processes are gone), keep the disk (the files are not)."""
        self._shrink_to(Capacity(cores=0, memory=0, disk=self.share.disk))

    def release(self) -> None:
        """Give back all of it."""
        self._shrink_to(NOTHING)

    def _shrink_to(self, rest: Capacity) -> None:
        freed, cards = self.share - rest, self.gpus
        self.share, self.gpus = rest, NO_ASSIGNMENT
        if freed != NOTHING or cards != NO_ASSIGNMENT:
            self._give_back(self, freed, cards)


class Ledger:
    """The machine's account: `total` at the start, `free` now, and the GPUs in `cards`."""

    def __init__(self, total: Capacity, cards: Cards | None = None) -> None:
        self.total = total
        self.free = total
        self.cards: Cards = cards or NoCards()
        self.releases = 0
        """How often something was given back so far."""
        self._held: dict[Reservation, None] = {}
        self._release = asyncio.Event()

    @property
    def held(self) -> Collection[Reservation]:
        """The reservations that were not wholly given back, the oldest first."""
        return self._held.keys()

    def fits(self, need: Need, after: Collection[Reservation] = (), besides: Need = NO_NEED) -> bool:
        """Whether `need` is free now, or would be if the reservations `after` were given back; with `besides`,
        whether it would be even if that was taken first, of what is free now."""
        free, taken = self.free, besides.share
        room = Capacity(  # summed by numbers: this is asked for every message that is looked at
            cores=free.cores - taken.cores + sum([reservation.share.cores for reservation in after]),
            memory=free.memory - taken.memory + sum([reservation.share.memory for reservation in after]),
            disk=free.disk - taken.disk + sum([reservation.share.disk for reservation in after]),
        )
        if not need.share <= room:
            return False
        if not need.gpus:
            return True
        return self.cards.fits(need.gpus, [reservation.gpus for reservation in after], besides.gpus)

    def reserve(self, need: Need, until: float = inf) -> Reservation | None:
        """Take `need` off what is free, or None when it does not fit now. `until`: see `Reservation`."""
        if not need.share <= self.free:
            return None
        cards = self.cards.take(need.gpus) if need.gpus else NO_ASSIGNMENT
        if cards is None:
            return None
        self.free = self.free - need.share
        reservation = Reservation(need.share, cards, self._freed, until)
        self._held[reservation] = None
        return reservation

    def shortfalls(self, need: Need) -> list[str]:
        """Why `need` can never fit here, a phrase each; empty when it can."""
        wanted, total = need.share, self.total
        found = []
        if wanted.cores > total.cores:
            found.append(f"{wanted.cores} cores wanted, {total.cores} here")
        if wanted.memory > total.memory:
            found.append(f"{format_size(wanted.memory)} memory wanted, {format_size(total.memory)} here")
        if wanted.disk > total.disk:
            found.append(f"{format_size(wanted.disk)} disk wanted, {format_size(total.disk)} here")
        if need.gpus != NO_GPUS and (why := self.cards.shortfall(need.gpus)):
            found.append(why)
        return found

    async def released(self, seen: int) -> None:
        """Return once `releases` is other than `seen`."""
        while self.releases == seen:
            await self._release.wait()

    def changed(self) -> None:
        """Something may fit now that did not before: it was given back, or a card that was set aside is well."""
        self.releases += 1
        self._release.set()
        self._release = asyncio.Event()

    def _freed(self, reservation: Reservation, amount: Capacity, cards: Assignment) -> None:
        self.free = self.free + amount
        if cards != NO_ASSIGNMENT:
            self.cards.give_back(cards)
        if reservation.share == NOTHING:
            self._held.pop(reservation, None)
        self.changed()
