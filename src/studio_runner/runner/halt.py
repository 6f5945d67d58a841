"""Ending an attempt's work early, and making one outcome of whatever ended it."""

import logging

from studio_runner.errors import ExperimentError, Reason, SupersededError
from studio_runner.runner.outcome import Outcome, from_error, of_reason, superseded

log = logging.getLogger(__name__)


class Halt(Exception):  # noqa: N818 - a request, not an error
    """Raised by a watcher: the work is to stop, with this outcome."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.sentence)
        self.outcome = outcome


def explain(failures: BaseExceptionGroup[BaseException]) -> Outcome:
    """One outcome for all that went wrong: a halt beats an error, an error with a reason beats a surprise."""
    leaves = list(_leaves(failures))
    if any(isinstance(leaf, SupersededError) for leaf in leaves):
        return superseded()
    for kind in (Halt, ExperimentError):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf.outcome if isinstance(leaf, Halt) else from_error(leaf)
    log.error("an attempt failed unexpectedly", exc_info=failures)
    first = leaves[0]
    return of_reason(Reason.SYSTEM_ERROR, f"({type(first).__name__}: {first})")


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for member in group.exceptions:
        found += _leaves(member) if isinstance(member, BaseExceptionGroup) else [member]
    return found
