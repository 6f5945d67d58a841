"""The storm as a plan: which trouble strikes what, when and for how long. The same for the same seed."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Target(StrEnum):
    """What can be struck."""

    RUNNER = "runner"
    SCRIPT = "script"
    BROKER = "broker"
    STORE = "store"
    LINK = "link"
    DISK = "disk"


@dataclass(frozen=True)
class Trouble:
    """A kind of trouble. It lasts from `shortest` to `longest` seconds, and its target is left alone for `recovery`
    seconds afterwards."""

    name: str
    target: Target
    weight: int
    shortest: float = 0.0
    longest: float = 0.0
    recovery: float = 5.0


TROUBLES = (
    Trouble("kill runner", Target.RUNNER, 10, 0.0, 5.0),
    Trouble("drain runner", Target.RUNNER, 3, 0.0, 2.0, recovery=30.0),
    Trouble("stop runner", Target.RUNNER, 3, 0.0, 2.0, recovery=20.0),
    Trouble("freeze runner", Target.RUNNER, 6, 6.0, 15.0),
    Trouble("kill script", Target.SCRIPT, 5, recovery=0.0),
    Trouble("kill broker", Target.BROKER, 3, 0.0, 4.0, recovery=30.0),
    Trouble("restart broker", Target.BROKER, 2, 0.0, 2.0, recovery=30.0),
    Trouble("kill store", Target.STORE, 4, 0.0, 8.0, recovery=10.0),
    Trouble("restart store", Target.STORE, 2, 0.0, 3.0, recovery=10.0),
    Trouble("cut link", Target.LINK, 7, 0.0, 20.0),
    Trouble("drop on link", Target.LINK, 6, 0.5, 20.0),
    Trouble("delay link", Target.LINK, 6, 3.0, 15.0),
    Trouble("half-close link", Target.LINK, 6, recovery=2.0),
    Trouble("fill disk", Target.DISK, 4, 2.0, 12.0),
)


@dataclass(frozen=True)
class Strike:
    """One trouble, `at` seconds after the beginning."""

    at: float
    trouble: Trouble
    target: str
    seconds: float

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.trouble.name} ({self.target}){lasting}"


def plan(seed: int, seconds: float, targets: Mapping[Target, Sequence[str]], every: float) -> Sequence[Strike]:
    """About one strike per `every` seconds, each possible trouble once before any comes twice. A target has one
    trouble at a time."""
    dice = random.Random(f"storm {seed}")
    possible = [trouble for trouble in TROUBLES if targets.get(trouble.target)]
    first = dice.sample(possible, len(possible))
    strikes: list[Strike] = []
    busy: dict[str, float] = {}
    at = dice.uniform(0.5, 1.5) * every
    while at < seconds:
        free = {one.name: [it for it in targets[one.target] if busy.get(it, 0.0) <= at] for one in possible}
        trouble = _next(dice, [one for one in first or possible if free[one.name]])
        if trouble:
            strike = Strike(at, trouble, dice.choice(free[trouble.name]), _duration(dice, trouble))
            busy[strike.target] = at + strike.seconds + trouble.recovery
            strikes.append(strike)
            first = [one for one in first if one is not trouble]
        at += dice.uniform(0.5, 1.5) * every
    return strikes


def _next(dice: random.Random, possible: Sequence[Trouble]) -> Trouble | None:
    return dice.choices(possible, [one.weight for one in possible])[0] if possible else None


def _duration(dice: random.Random, trouble: Trouble) -> float:
    return dice.uniform(trouble.shortest, trouble.longest)
