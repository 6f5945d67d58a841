"""From what pydantic says is wrong to the one error that people read."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from studio_runner.errors import InvalidMessageError
from studio_runner.messages.refusal import KINDS, NotAcceptedError, describe, json_path
from studio_runner.messages.secrets import is_secret_name

_ACCEPTED = {
    "missing": "a value for this field",
    "string_type": "a string",
    "dict_type": "an object",
    "model_type": "an object",
    "tuple_type": "an array",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}


def invalid_message(error: ValidationError) -> InvalidMessageError:
    """The first of the errors, and how many more there are."""
    first, *others = error.errors(include_url=False)
    steps = list(first["loc"])
    if steps and steps[-1] == "[key]":  # so pydantic marks that the name, not the value, is wrong
        steps.pop()
    found, accepted = _story(dict(first), steps)
    if others:
        accepted += f" ({len(others)} more wrong in this message)"
    return InvalidMessageError(json_path(steps), found, accepted)


def _story(error: dict[str, Any], steps: Sequence[str | int]) -> tuple[str, str]:
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, NotAcceptedError):
        found, accepted = cause.found, cause.accepted
    else:
        found, accepted = describe(error["input"]), _ACCEPTED.get(error["type"], error["msg"])
    if error["type"] == "missing":
        return "nothing", accepted
    if any(isinstance(step, str) and is_secret_name(step) for step in steps):
        found = f"{KINDS.get(type(error['input']), 'a value')} (not shown: it may be a secret)"
    return found, accepted
