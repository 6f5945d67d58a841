"""What a check says."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from studio_runner.cli.output import safe
from studio_runner.config.settings import Settings
from studio_runner.config.studioml import StudioConfig
from studio_runner.messages.masking import Masker


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One sentence about one subject; `mend` says what to do when it is not well."""

    subject: str
    state: State
    sentence: str
    mend: str = ""

    def shown(self, masker: Masker) -> "Finding":
        """Without secrets: what is found wrong may be repeated in it."""
        return replace(self, sentence=masker.text(self.sentence), mend=masker.text(self.mend))

    def __str__(self) -> str:
        mend = f"\n{'':10}{safe(self.mend)}" if self.mend else ""
        return f"{self.state.value:<8}  {safe(self.subject)}: {safe(self.sentence)}{mend}"


@dataclass(frozen=True)
class Here:
    """What the checks are about: the settings, the environment a runner would have, and the StudioML configuration
    of the person."""

    settings: Settings
    environ: Mapping[str, str]
    config: StudioConfig = field(default_factory=StudioConfig)


def ok(subject: str, sentence: str) -> Finding:
    return Finding(subject, State.OK, sentence)


def warning(subject: str, sentence: str, mend: str) -> Finding:
    return Finding(subject, State.WARNING, sentence, mend)


def problem(subject: str, sentence: str, mend: str) -> Finding:
    return Finding(subject, State.PROBLEM, sentence, mend)
