"""The kinds of field that messages are made of, and the base of their models."""

import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, FailFast, WithJsonSchema

from studio_runner.messages import units
from studio_runner.messages.arguments import MOST_TEXT
from studio_runner.messages.refusal import NotAcceptedError

NOTHING = "<no value>"
"""What some clients write where they have nothing to say."""

MOST_MEMBERS = 10_000
"""Of artifacts, or of variables, in one message."""

LONGEST_LINE = 1 << 14
"""Characters of one requirement line."""

_LABEL_BYTES = 255  # file systems allow no longer names
_VERSION = re.compile(r"[0-9]{1,3}(\.[0-9]{1,5}){0,2}")


class Model(BaseModel):
    """Base of all parts of a message: frozen, unknown fields kept, and neither secrets nor unknown fields in its
    repr."""

    model_config = ConfigDict(
        frozen=True, extra="allow", hide_input_in_errors=True, validate_by_name=True, validate_by_alias=True
    )

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        fields = type(self).model_fields
        return [(name, getattr(self, name)) for name, field in fields.items() if field.repr]


def _system_text(value: str) -> str:
    """Text that will become a path, an argument or a variable: the operating system takes neither of these."""
    if "\0" in value:
        raise NotAcceptedError(value, "text without NUL characters", found="text with a NUL character")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise NotAcceptedError(value, "Unicode text", found="text with half a surrogate pair")
    return value


SystemText = Annotated[str, AfterValidator(_system_text)]


def _word(value: object) -> object:
    """Numbers become text: some clients do not quote them."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise NotAcceptedError(value, "a string or a number")
    return value


Word = Annotated[SystemText, BeforeValidator(_word, json_schema_input_type=str | int | float)]


def _variable(value: object) -> object:
    """A variable's value; true, false and null come from configuration files where people left out the quotes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else _word(value)


VariableValue = Annotated[
    SystemText, BeforeValidator(_variable, json_schema_input_type=str | int | float | bool | None)
]


def _variable_name(value: str) -> str:
    if not value or "=" in value:
        raise NotAcceptedError(value, "the name of a variable, not empty and without '='")
    return value


VariableName = Annotated[SystemText, AfterValidator(_variable_name)]


def one_component(value: str) -> str:
    """Text that is one component of a path and nothing else."""
    if value in ("", ".", "..") or "/" in value or len(value.encode()) > _LABEL_BYTES:
        raise NotAcceptedError(value, f"one safe path component (no '/', not '..', 1 to {_LABEL_BYTES} bytes)")
    return value


Label = Annotated[SystemText, AfterValidator(one_component)]


def _key(value: str) -> str:
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise NotAcceptedError(value, "text without control characters")
    return one_component(value)


Key = Annotated[SystemText, AfterValidator(_key)]


def _filename(value: str) -> str:
    if value == "-m":
        return value
    depth = 0
    for part in value.split("/"):
        depth += {"": 0, ".": 0, "..": -1}.get(part, 1)
        if depth < 0:
            break
    if depth <= 0 or value.startswith("-"):
        raise NotAcceptedError(value, "a path inside the workspace, '-m' or null")
    return value


Filename = Annotated[SystemText, AfterValidator(_filename)]


def _version(value: object) -> str:
    """`3`, `"3.8"`, `3.8`: a prefix of a version; "" for any."""
    if value is None or value in ("", NOTHING):
        return ""
    spelled = str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    if isinstance(value, float):
        # No interpreter 3.1 is left anywhere: the number 3.1 is 3.10 that lost its quotes, and 3.0 is 3.
        spelled = {"3.1": "3.10"}.get(spelled, spelled.removesuffix(".0"))
    if not _VERSION.fullmatch(spelled):
        raise NotAcceptedError(value, 'a Python version such as 3, "3.8" or "3.11.7"')
    return spelled


PythonVersion = Annotated[str, BeforeValidator(_version, json_schema_input_type=str | int | float | None)]


def _time(value: object) -> float | None:
    """Unix time; what is under 10 was never set."""
    if value is None or value in ("", NOTHING):
        return None
    try:
        time = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else -1.0
    except (ValueError, OverflowError):
        time = -1.0
    if not 0 <= time < units.CEILING:
        raise NotAcceptedError(value, "a time in seconds since 1970")
    return time if time >= 10 else None


UnixTime = Annotated[float | None, BeforeValidator(_time, json_schema_input_type=float | str | None)]


def _or_zero(parse: Callable[[object], int | None]) -> Callable[[object], int]:
    return lambda value: parse(value) or 0


_QUANTITY = {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}, {"type": "null"}]}

Duration = Annotated[
    float | None,
    BeforeValidator(units.parse_duration),
    WithJsonSchema({**_QUANTITY, "examples": ["1h30m", "20m", "2d", 90]}),
]
Size = Annotated[
    int,
    BeforeValidator(_or_zero(units.parse_size)),
    WithJsonSchema({**_QUANTITY, "examples": ["3gb", "4GiB", 512]}),
]
Count = Annotated[
    int, BeforeValidator(_or_zero(units.parse_count)), WithJsonSchema({**_QUANTITY, "examples": [1, "2"]})
]


def or_empty_array(value: object) -> object:
    """Null reads as an empty array."""
    return () if value is None else value


def or_empty_object(value: object) -> object:
    """Null reads as an empty object; and every member of an object costs, the wrong ones most."""
    if isinstance(value, dict) and len(value) > MOST_MEMBERS:
        raise NotAcceptedError(value, f"an object of at most {MOST_MEMBERS} members", found=f"{len(value)} members")
    return {} if value is None else value


def _lines(value: object) -> object:
    """As many lines as a freeze list may have, and none that is longer than a line."""
    if not isinstance(value, list):
        return or_empty_array(value)
    lengths = [len(line) for line in value if isinstance(line, str)]
    if len(value) > MOST_MEMBERS:
        raise NotAcceptedError(value, f"at most {MOST_MEMBERS} lines")
    if lengths and max(lengths) > LONGEST_LINE:
        raise NotAcceptedError(
            value, f"lines of at most {LONGEST_LINE} characters", found=f"a line of {max(lengths)} characters"
        )
    return _of_sane_length(value, sum(lengths))


def _words(value: object) -> object:
    text = [word for word in value if isinstance(word, str)] if isinstance(value, list) else []
    return _of_sane_length(or_empty_array(value), sum(map(len, text)))


def _variables(value: object) -> object:
    text = [part for pair in value.items() for part in pair] if isinstance(value, dict) else []
    return _of_sane_length(or_empty_object(value), sum(len(part) for part in text if isinstance(part, str)))


def _of_sane_length(value: object, length: int) -> object:
    if length > MOST_TEXT:
        raise NotAcceptedError(value, f"at most {MOST_TEXT} characters", found=f"{length} characters of text")
    return value


def _or_empty_text(value: object) -> object:
    return "" if value is None else value


Text = Annotated[SystemText, BeforeValidator(_or_empty_text, json_schema_input_type=str | None)]
Words = Annotated[
    tuple[Word, ...], FailFast(), BeforeValidator(_words, json_schema_input_type=tuple[Word, ...] | None)
]
Lines = Annotated[
    tuple[SystemText, ...],
    FailFast(),
    BeforeValidator(_lines, json_schema_input_type=tuple[SystemText, ...] | None),
]
Variables = Annotated[
    dict[VariableName, VariableValue],
    BeforeValidator(_variables, json_schema_input_type=dict[str, VariableValue] | None),
]
