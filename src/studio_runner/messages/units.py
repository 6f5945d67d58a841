"""Durations, sizes and counts in all their spellings (INTERFACE section 1).

`0`, `""` and null mean "no requirement" and read as None. What cannot be read is a NotAcceptedError, which is a
ValueError.
"""

import math
import re
from fractions import Fraction

from studio_runner.messages.refusal import NotAcceptedError

CEILING = 2**63
"""No duration, size or count reaches this: other programs keep them in 64 bits."""

_LONGEST = 100
"""Characters of a spelling; longer text is no quantity, and is not searched for one."""

_DURATION = "a duration such as 90s, 1h30m, 2d or a number of seconds"
_SIZE = "a size such as 3gb, 512MiB, 1.5 GB or a number of bytes"
_COUNT = "a whole number"

_NUMBER = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_PLAIN = re.compile(_NUMBER)
_PART = re.compile(rf"\s*({_NUMBER})\s*([a-zµμ]+)")
_SIZED = re.compile(rf"({_NUMBER})\s*(?:([kmgtpe])(i?))?(?:b|bytes?)?", re.IGNORECASE)

_SECONDS = {
    Fraction(86400): ("d", "day", "days"),
    Fraction(3600): ("h", "hr", "hrs", "hour", "hours"),
    Fraction(60): ("m", "min", "mins", "minute", "minutes"),
    Fraction(1): ("s", "sec", "secs", "second", "seconds"),
    Fraction(1, 10**3): ("ms",),
    Fraction(1, 10**6): ("us", "µs", "μs"),
    Fraction(1, 10**9): ("ns",),
}
_UNITS = {name: seconds for seconds, names in _SECONDS.items() for name in names}
_PREFIXES = "kmgtpe"


def parse_duration(value: object) -> float | None:
    """Seconds: `1h30m`, `1.5h`, `300ms`, `2d`, `90` or a number of seconds."""
    quantity = _plain(value, _DURATION)
    if quantity is None:
        quantity = _spelled_duration(str(value))
    return float(_bounded(quantity, value, _DURATION)) or None


def parse_size(value: object) -> int | None:
    """Bytes: `3gb` (powers of ten), `4GiB` (powers of two), `1.5 GB` or a number; parts of a byte round up."""
    quantity = _plain(value, _SIZE)
    if quantity is None:
        quantity = _spelled_size(str(value))
    return math.ceil(_bounded(quantity, value, _SIZE)) or None


def parse_count(value: object) -> int | None:
    """A whole number: `2`, `2.0` or `"2"`."""
    quantity = _plain(value, _COUNT)
    if quantity is None or quantity.denominator != 1:
        raise NotAcceptedError(value, _COUNT)
    return int(_bounded(quantity, value, _COUNT)) or None


def format_duration(seconds: float) -> str:
    """For people, and readable by `parse_duration`: `350ms`, `2.5s`, `1h30m`."""
    if seconds < 1e-6:
        return "0s"
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g}ms"
    if seconds < 59.95:
        return f"{round(seconds, 1):g}s"
    left, parts = round(seconds), []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def format_size(size: int) -> str:
    """For people, in powers of ten like the messages: `512 B`, `1.5 GB`."""
    step, amount = 0, float(size)
    while amount >= 999.5 and step < len(_PREFIXES):
        step, amount = step + 1, amount / 1000
    return f"{amount:.3g} {_PREFIXES[step - 1].upper() if step else ''}B"


def _plain(value: object, accepted: str) -> Fraction | None:
    """The value of a bare number, 0 for nothing at all, None for text that must be looked at more closely."""
    if value is None:
        return Fraction(0)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise NotAcceptedError(value, accepted)
    if isinstance(value, str):
        text = value.strip()
        if len(text) > _LONGEST:
            raise NotAcceptedError(value, accepted)
        if not text:
            return Fraction(0)
        return Fraction(text) if _PLAIN.fullmatch(text) else None
    if isinstance(value, float) and not math.isfinite(value):
        raise NotAcceptedError(value, accepted)
    return Fraction(value)


def _bounded(quantity: Fraction, value: object, accepted: str) -> Fraction:
    if not 0 <= quantity < CEILING:
        raise NotAcceptedError(value, f"{accepted}, not negative and below 2^63")
    return quantity


def _spelled_duration(text: str) -> Fraction:
    folded, total, position = text.strip().lower(), Fraction(0), 0
    while position < len(folded):
        part = _PART.match(folded, position)
        if part is None or part[2] not in _UNITS:
            raise NotAcceptedError(text, _DURATION)
        total += Fraction(part[1]) * _UNITS[part[2]]
        position = part.end()
    return total


def _spelled_size(text: str) -> Fraction:
    sized = _SIZED.fullmatch(text.strip())
    if sized is None:
        raise NotAcceptedError(text, _SIZE)
    number, prefix, binary = sized.groups()
    power = _PREFIXES.index(prefix.lower()) + 1 if prefix else 0
    return Fraction(number) * Fraction(1024 if binary else 1000) ** power
