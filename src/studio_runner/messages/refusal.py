"""How a value that cannot be accepted is told: what was found (never a secret), and what is accepted."""

import json
import re
from collections.abc import Sequence

from studio_runner.messages.secrets import mask_urls

SHOWN = 60
"""Characters of a value, or of a name in a path, that are repeated to the reader."""

KINDS = {dict: "an object", list: "an array", str: "a string", bool: "true or false"}
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class NotAcceptedError(ValueError):
    """A value that cannot be read. `accepted` completes the sentence "accepted is ..."."""

    def __init__(self, value: object, accepted: str, *, found: str | None = None) -> None:
        self.found = describe(value) if found is None else found
        self.accepted = accepted
        super().__init__(f"found {self.found}, accepted is {accepted}")


def shorten(text: str) -> str:
    """The text, with its tail left out where it is long."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def describe(value: object) -> str:
    """A JSON value in a few words: scalars as they are spelled, the rest by kind."""
    if isinstance(value, dict | list):
        size = f" of {len(value)}" if isinstance(value, list) else ""
        return KINDS[type(value)] + size
    if isinstance(value, str):
        # Cut before masking as well: a megabyte of text is not searched for addresses.
        return _quoted(shorten(mask_urls(value[: 20 * SHOWN])))
    if isinstance(value, int) and value.bit_length() > 4 * SHOWN:
        return "a number of very many digits"
    if value is None or isinstance(value, bool | int | float):
        return shorten(json.dumps(value))
    return f"a value of type {type(value).__name__}"


def _quoted(text: str) -> str:
    """As JSON spells it, in letters that any log can hold."""
    return json.dumps(text, ensure_ascii=False).encode(errors="backslashreplace").decode()


def json_path(steps: Sequence[str | int]) -> str:
    """`$.experiment.args[2]` for `("experiment", "args", 2)`."""
    parts = ["$"]
    for step in steps:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        else:
            parts.append(f".{step}" if _IDENTIFIER.fullmatch(step) else f"[{_quoted(shorten(step))}]")
    return "".join(parts)
