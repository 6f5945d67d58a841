"""The page that explains outcomes says what the code does."""

import re
from pathlib import Path

from studio_runner.runner.outcome import RULES, Settle

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "outcomes.md"
WORDS = {
    Settle.ACK: "done",
    Settle.RETRY: "tried again",
    Settle.DEAD: "dead letter",
    Settle.RETURN: "given back",
    Settle.ABANDON: "left alone",
}


def test_the_table_of_reasons_is_the_one_the_runner_goes_by():
    rows = re.findall(r"^\| `(\w+)` \| ([a-z ]+) \| (.+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert rows == [(reason.value, WORDS[rule.settle], rule.sentence) for reason, rule in RULES.items()]
