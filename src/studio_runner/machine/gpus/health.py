"""Whether a card may be given to the next experiment: judged from one look at it after the other."""

from dataclasses import dataclass, field

from studio_runner.machine.gpus.card import Card, Condition
from studio_runner.messages.units import format_duration, format_size

SLACK = 256 << 20
"""Bytes of memory by which a card may differ from what it was before: drivers keep a little back."""
CROWDED = 4
"""A card that nobody here has used may have one part in this many of its memory in use: a desktop has its share."""


@dataclass(frozen=True)
class Patience:
    """Seconds that a card has to become clean after an experiment, and that it must be quiet after a fault was
    reported."""

    settling: float
    probation: float


@dataclass
class Health:
    """What is known of one card. `trouble` says why it is set aside; empty: it is not. `settling` since when it
    waits for its last experiment's memory and processes to be gone."""

    card: Card
    patience: Patience
    trouble: str = ""
    settling: float | None = None
    _before: int | None = None
    """Memory in use when the card was last idle and well."""
    _alarmed: float | None = None
    _alarm: str = field(default="")

    @property
    def well(self) -> bool:
        """It can be given to an experiment."""
        return not self.trouble and self.settling is None

    def released(self, now: float) -> None:
        """Its last experiment is over: it is looked at before the next one gets it."""
        self.settling = now

    def alarm(self, fault: str, now: float) -> None:
        """The driver reported a fault: the card is set aside, until it has been quiet for a while."""
        self._alarm, self._alarmed = fault, now
        self.trouble = fault

    def looked_busy(self, condition: Condition, now: float) -> None:
        """A look at it while an experiment has it: only faults count."""
        self.trouble = self._fault(condition, now)

    def looked_idle(self, condition: Condition, now: float) -> None:
        """A look at it while nobody here has it."""
        if fault := self._fault(condition, now):
            self.trouble, self.settling = fault, None
        elif unclean := self._unclean(condition):
            if self.settling is None:
                self.trouble = unclean
            elif now - self.settling >= self.patience.settling:
                over = format_duration(now - self.settling)
                self.trouble, self.settling = f"{unclean}, {over} after its experiment ended", None
        else:
            self.trouble, self.settling, self._before = "", None, condition.used

    def mute(self) -> None:
        """A look at it did not come back."""
        self.trouble = "the driver does not answer"

    def _fault(self, condition: Condition, now: float) -> str:
        if condition.faults:
            return "; ".join(condition.faults)
        if self._alarmed is not None and now - self._alarmed < self.patience.probation:
            return self._alarm
        self._alarmed = None
        return ""

    def _unclean(self, condition: Condition) -> str:
        if condition.processes:
            pids = ", ".join(map(str, sorted(condition.processes)[:3]))
            more = " and others" if len(condition.processes) > 3 else ""
            return f"process {pids}{more} computes on it"
        if condition.used > self._bound():
            return f"{format_size(condition.used)} of its memory are in use by nobody that can be seen"
        return ""

    def _bound(self) -> int:
        """Bytes that may be in use: about what was before it was used, or, of a card that is not known yet or has
        been idle all the time, what a desktop may take."""
        desktop = self.card.memory // CROWDED
        if self._before is None:
            return desktop
        near = self._before + SLACK
        return near if self.settling is not None or self.trouble else max(near, desktop)
