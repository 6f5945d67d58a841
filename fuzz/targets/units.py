"""Durations, sizes and counts, spelled or as numbers; script arguments and variables, which are short texts too."""

import json
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from studio_runner.messages import units
from studio_runner.messages.arguments import script_arguments
from studio_runner.messages.refusal import NotAcceptedError
from studio_runner.messages.variables import expand

MAX_LEN = 256
WORDS = (
    *(b"h", b"min", b"ms", "µs".encode(), b"ns", b"d", b"gb", b"GiB", b"kB", b"PiB", b"bytes", b"1.5", b".5"),
    *(b"9223372036854775807", b"1e308", b"%HOME%", b"'", b'"', b"\\", b"inf", b"nan"),
)
_FORMATS: tuple[tuple[Callable[[object], float | None], Callable[[Any], str], float], ...] = (
    (units.parse_duration, units.format_duration, 0.05),
    (units.parse_size, units.format_size, 0.01),
)


def seeds() -> Iterable[bytes]:
    quantities = (
        b"1h30m",
        b"20m",
        b"2d",
        b"1.5h",
        b"300ms",
        b"90",
        b"3gb",
        b"4GiB",
        b"512Mb",
        b"1.5 GB",
        b"2.0",
        b"",
    )
    yield from quantities
    yield from (
        b"1e3",
        b"-1",
        b"true",
        b"0.1",
        b"[]",
        b"null",
        b"9223372036854775807",
        b'a \'b c\' "d\\"" e\\ f',
        b"%A%B%",
    )


def check(data: bytes) -> None:
    text = data.decode(errors="surrogateescape")
    values: list[object] = [text]
    with suppress(ValueError):
        values.append(json.loads(text))
    for value in values:
        for parse, spell, error in _FORMATS:
            _there_and_back(value, parse, spell, error)
        count = _read(units.parse_count, value)
        assert count is None or (isinstance(count, int) and 0 < count < units.CEILING)
    words = script_arguments([text])
    assert script_arguments(["'" + word.replace("'", "'\\''") + "'" for word in words]) == words
    own = {"A": "%B%", "HOME": "/home/user"}
    assert expand({"x": text}, {}) == {"x": text}
    expand({"x": text}, own)


def _there_and_back(
    value: object, parse: Callable[[object], float | None], spell: Callable[[Any], str], error: float
) -> None:
    quantity = _read(parse, value)
    if quantity is None:
        return
    assert math.isfinite(quantity)
    assert 0 < quantity < units.CEILING
    assert parse(quantity) == quantity
    spelled = spell(quantity)
    back = parse(spelled) or 0
    assert abs(back - quantity) <= max(quantity * error, 1e-6), spelled


def _read(parse: Callable[[object], float | None], value: object) -> float | None:
    try:
        return parse(value)
    except NotAcceptedError as error:
        str(error).encode()
        return None
