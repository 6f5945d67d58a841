"""`%NAME%` in the experiment's environment (INTERFACE section 1)."""

import re
from collections.abc import Mapping

_NAME = re.compile(r"%([A-Za-z_][A-Za-z0-9_]*)(?=%)")


def expand(env: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """`env` with every `%NAME%` replaced by the runner's variable of that name, or left alone where it has none.
    What was put in is not looked at again."""
    return {name: _expanded(value, own) if "%" in value else value for name, value in env.items()}


def _expanded(value: str, own: Mapping[str, str]) -> str:
    parts, position = [], 0
    while found := _NAME.search(value, position):
        parts.append(value[position : found.start()])
        if found[1] in own:
            parts.append(own[found[1]])
            position = found.end() + 1
        else:  # its closing sign may open the next name
            parts.append(found[0])
            position = found.end()
    return "".join((*parts, value[position:]))
