"""What one check came to."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """`problems` are what somebody has to do something about; `missed` is what could not be looked at, "" when
    everything could."""

    subject: str
    summary: str
    problems: Sequence[str] = ()
    missed: str = ""

    def lines(self) -> list[str]:
        state = "problem" if self.problems else "not done" if self.missed else "ok"
        about = [f"{state:<9} {self.subject}: {self.summary}{f'; {self.missed}' if self.missed else ''}"]
        return about + [f"{'':10}{problem}" for problem in self.problems]
