"""The account as people read it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from faults.audit import Verdict
from faults.cluster import Account
from faults.experiment import KINDS

LONGEST = 500
"""Characters of what is told of one thing."""
FAULTS = ("lost", "duplicated", "torn", "wrong")


def faulty(account: Account) -> bool:
    return any(verdict.faults for verdict in account.verdicts)


def lines(account: Account) -> Iterator[str]:
    yield ""
    yield _row("experiments", ("all", *FAULTS, "not run", "run once", "twice", "more", "resumed"))
    for kind in KINDS:
        yield _row(kind, _counts([one for one in account.verdicts if one.experiment.kind == kind]))
    yield _row("together", _counts(account.verdicts))
    yield ""
    troubles = ", ".join(f"{name} {amount}" for name, amount in sorted(account.struck.items()))
    yield f"the storm: {troubles or 'none'}"
    yield from _listed("runners that ended by themselves", account.unexpected)
    yield from _listed("published again, not being sure", account.published_again)
    yield from _listed("left in queues", account.remaining)
    yield from _listed("left of attempts", account.leftovers)
    for verdict in account.verdicts:
        yield from _details(verdict)
    yield f"{account.seconds:.0f} s"


def _counts(verdicts: Sequence[Verdict]) -> tuple[int, ...]:
    faults = Counter(name for verdict in verdicts for name in verdict.faults)
    runs = Counter(min(3, len(verdict.executions.started)) for verdict in verdicts)
    resumed = sum(bool(verdict.executions.resumed) for verdict in verdicts)
    return (len(verdicts), *(faults[name] for name in FAULTS), runs[0], runs[1], runs[2], runs[3], resumed)


def _row(name: str, values: Iterable[object]) -> str:
    return f"{name:14}" + "".join(f"{value!s:>11}" for value in values)


def _listed(what: str, found: Sequence[str]) -> Iterator[str]:
    yield f"{what}: {len(found) or 'none'}"
    for line in found[:20]:
        yield f"  {line[:LONGEST]}"


def _details(verdict: Verdict) -> Iterator[str]:
    for name, said in verdict.faults.items():
        for sentence in said:
            yield f"{name.upper()} {verdict.experiment.kind} {verdict.experiment.key}: {sentence[:LONGEST]}"
