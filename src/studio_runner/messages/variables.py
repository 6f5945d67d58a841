"""`%NAME%` in the experiment's environment (INTERFACE section 1)."""

import re
from collections.abc import Mapping

from studio_runner.errors import InvalidMessageError
from studio_runner.messages.arguments import MOST_TEXT
from studio_runner.messages.refusal import json_path

_NAME = re.compile(r"%([A-Za-z_][A-Za-z0-9_]*)(?=%)")


def expand(env: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """`env` with every `%NAME%` replaced by the runner's variable of that name, or left alone where it has none.
    What was put in is not looked at again. InvalidMessageError for what gets longer than any variable may be: a few
    letters can stand for a long value of the runner's."""
    return {name: _expanded(name, value, own) if "%" in value else value for name, value in env.items()}


def _expanded(name: str, value: str, own: Mapping[str, str]) -> str:
    parts: list[str] = []
    position = length = 0
    while found := _NAME.search(value, position):
        length += len(own.get(found[1], ""))
        if length > MOST_TEXT:
            raise InvalidMessageError(
                json_path(("config", "env", name)),
                "text that gets too long when its `%NAME%` are replaced",
                f"at most {MOST_TEXT} characters of the runner's variables",
            )
        parts.append(value[position : found.start()])
        if found[1] in own:
            parts.append(own[found[1]])
            position = found.end() + 1
        else:  # its closing sign may open the next name
            parts.append(found[0])
            position = found.end()
    return "".join((*parts, value[position:]))
