"""Finding an experiment by what a person types: its key, the start of it, or `last`."""

import difflib

from studio_runner.client.holdings import Holdings
from studio_runner.client.results import caught_up
from studio_runner.errors import NotFoundError
from studio_runner.reports.records import Record, Records

LAST = "last"


async def find_current(holdings: Holdings, text: str) -> Record:
    """The record, as much as anybody knows by now; NotFoundError names what comes near."""
    return await caught_up(await find(holdings.records, text), holdings)


async def find(records: Records, text: str) -> Record:
    """The record as it stands; NotFoundError names what comes near."""
    if text != LAST and (exact := await records.read(text)):
        return exact
    known = await records.list()
    if text == LAST and known:
        return known[0]
    begun = [record for record in known if text and record.key.startswith(text)]
    if len(begun) == 1:
        return begun[0]
    raise _unknown(text, [record.key for record in known], [record.key for record in begun])


def _unknown(text: str, known: list[str], begun: list[str]) -> NotFoundError:
    if begun:
        return NotFoundError(
            f"{len(begun)} experiments begin with {text!r}", hint=f"Type more of the key: {', '.join(begun[:5])}."
        )
    if not known:
        return NotFoundError("There are no experiments yet", hint="`studio-runner submit SCRIPT` makes one.")
    near = difflib.get_close_matches(text, known, n=3, cutoff=0.5)
    hint = f"Did you mean {', '.join(near)}?" if near else "`studio-runner list` shows those there are."
    return NotFoundError(f"There is no experiment {text!r}", hint=hint)
