"""JSON as it may come from anybody: bytes in, plain values out, every defect an error with its place."""

import json
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any

from studio_runner.errors import InvalidMessageError
from studio_runner.messages.refusal import json_path

MAX_DEPTH = 100
"""Levels of nesting. Real messages have seven; the rest of the program may recurse over what was read."""

MOST_VALUES = 1_000_000
"""Values in one document, names of members counted as well. Some megabytes of brackets become gigabytes of empty
arrays, and seconds in which this process does nothing else."""

_CONTAINERS = dict, list  # a tuple: a union would be made anew for every value that is looked at
_SIGNS = (b",", b":", b"[", b"{")
_STRINGS = re.compile(rb'"[^"]*+"?')
_TOKENS = 1 << 16
_STRETCH = re.compile(rb'(?:[^"]++|"[^"]*+"?){1,%d}+' % _TOKENS)
"""A part of a document that ends in no string. Every other of its tokens is one."""

_UTF8_BOM = b"\xef\xbb\xbf"


class TooManyValuesError(ValueError):
    """It would cost too much to read this JSON."""


def read_json(body: bytes, limit: int) -> Any:
    """The value that `body` spells. InvalidMessageError for anything that is not JSON (RFC 8259) in UTF-8, longer
    than `limit` bytes, nested too deep, or with numbers that have no value (NaN, 1e999)."""
    if len(body) > limit:
        raise InvalidMessageError("$", f"{len(body)} bytes", f"a message of at most {limit} bytes")
    if too_many(body):
        raise InvalidMessageError("$", f"more than {MOST_VALUES} values", f"at most {MOST_VALUES}")
    value, odd_numbers = _decode(_text(body))
    if too_deep(body, value):
        raise InvalidMessageError("$", f"more than {MAX_DEPTH} levels of nesting", f"at most {MAX_DEPTH}")
    if odd_numbers:
        _refuse_odd_number(value)
    return value


async def beginning(pieces: AsyncIterator[bytes], most: int) -> bytes:
    """At most so many bytes of what comes; the rest is left."""
    held: list[bytes] = []
    size = 0
    try:
        async for piece in pieces:
            held.append(piece)
            size += len(piece)
            if size >= most:
                break
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()
    return b"".join(held)[:most]


def loads(body: bytes) -> Any:
    """The value that `body` spells, anything that Python takes for JSON. ValueError, TooManyValuesError among them;
    RecursionError."""
    if too_many(body):
        raise TooManyValuesError(f"more than {MOST_VALUES} values")
    return json.loads(body)


def too_many(body: bytes) -> bool:
    """True when `body`, be it JSON or not, spells more than MOST_VALUES values."""
    if _signs(body) <= MOST_VALUES:  # nearly always, and the strings need not be found for that
        return False
    count = tokens = 0
    for stretch in _STRETCH.finditer(body.replace(b"\\\\", b"").replace(b'\\"', b"")):
        count += _signs(_STRINGS.sub(b"", stretch[0]))
        if max(count, tokens // 2) > MOST_VALUES:
            return True
        tokens += _TOKENS
    return False


def _signs(body: bytes) -> int:
    """How many of the signs that stand before every value but the first are there; text of strings included."""
    return sum(map(body.count, _SIGNS))


def too_deep(body: bytes, value: Any) -> bool:
    """True when `value`, which `body` spells, is nested deeper than MAX_DEPTH."""
    # Few messages have so many brackets at all: no need to look at each value of the others.
    return body.count(b"[") + body.count(b"{") > MAX_DEPTH and nested_deeper(value, MAX_DEPTH)


def nested_deeper(value: Any, levels: int) -> bool:
    """True when more than `levels` objects and arrays stand inside one another."""
    level = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(levels):
        if not level:
            return False
        level = [inner for outer in level for inner in _members(outer) if isinstance(inner, _CONTAINERS)]
    return bool(level)


def members(value: Any, enough: int) -> int:
    """How many members the objects and arrays of `value` have in all; counting ends above `enough`."""
    count, waiting = 0, [value] if isinstance(value, _CONTAINERS) else []
    while waiting and count <= enough:
        node = waiting.pop()
        count += len(node)
        if count <= enough:
            waiting += [inner for inner in _members(node) if isinstance(inner, _CONTAINERS)]
    return count


def _members(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _text(body: bytes) -> str:
    try:
        return body.removeprefix(_UTF8_BOM).decode()
    except UnicodeDecodeError as error:
        raise InvalidMessageError(
            "$", f"bytes that are not UTF-8, at offset {error.start}", "JSON in UTF-8"
        ) from error


def _decode(text: str) -> tuple[Any, bool]:
    odd = False

    def number(spelled: str) -> float:
        nonlocal odd
        value = float(spelled)
        odd = odd or not math.isfinite(value)
        return value

    try:
        value = json.loads(text, parse_float=number, parse_constant=number)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise InvalidMessageError("$", f"text that is not JSON ({error.msg} at {place})", "JSON") from error
    except RecursionError as error:
        raise InvalidMessageError(
            "$", f"more than {MAX_DEPTH} levels of nesting", f"at most {MAX_DEPTH}"
        ) from error
    except ValueError as error:  # Python's limit on the digits of an integer
        raise InvalidMessageError("$", "an integer of thousands of digits", "numbers of a sane size") from error
    return value, odd


def _refuse_odd_number(value: Any, *steps: str | int) -> None:
    """Refuse the first in the order of the document. `value` is not nested deep."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidMessageError(json_path(steps), json.dumps(value), "a finite number")
    if isinstance(value, dict | list):
        for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(inner, dict | list | float):
                _refuse_odd_number(inner, *steps, step)
