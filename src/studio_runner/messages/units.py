"""Durations, sizes and counts in all their spellings (INTERFACE section 1).

`0`, `""` and null mean "no requirement" and read as None. What cannot be read is a NotAcceptedError, which is a
ValueError.
"""

import math
import re

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
_WHOLE = re.compile(r"([0-9]+)(?:\.0*)?")
_PART = re.compile(rf"\s*({_NUMBER})\s*([a-zµμ]+)")
_SIZED = re.compile(rf"({_NUMBER})\s*(?:([kmgtpe])(i?))?(?:b|bytes?)?", re.IGNORECASE)

_SECOND = 10**9
_NANOSECONDS = {
    name: length
    for length, names in (
        (86400 * _SECOND, ("d", "day", "days")),
        (3600 * _SECOND, ("h", "hr", "hrs", "hour", "hours")),
        (60 * _SECOND, ("m", "min", "mins", "minute", "minutes")),
        (_SECOND, ("s", "sec", "secs", "second", "seconds")),
        (10**6, ("ms",)),
        (10**3, ("us", "µs", "μs")),
        (1, ("ns",)),
    )
    for name in names
}
_PREFIXES = "kmgtpe"


def parse_duration(value: object) -> float | None:
    """Seconds: `1h30m`, `1.5h`, `300ms`, `2d`, `90` or a number of seconds."""
    bare = _bare(value, _DURATION)
    seconds = _spelled_duration(bare) if isinstance(bare, str) else bare
    return _bounded(float(_bounded(seconds, value, _DURATION)), value, _DURATION) or None


def parse_size(value: object) -> int | None:
    """Bytes: `3gb` (powers of ten), `4GiB` (powers of two), `1.5 GB` or a number; parts of a byte round up."""
    bare = _bare(value, _SIZE)
    size = _spelled_size(bare) if isinstance(bare, str) else bare
    return math.ceil(_bounded(size, value, _SIZE)) or None


def parse_count(value: object) -> int | None:
    """A whole number: `2`, `2.0` or `"2"`."""
    bare = _bare(value, _COUNT)
    if isinstance(bare, str):
        whole = _WHOLE.fullmatch(bare)
        if whole is None:
            raise NotAcceptedError(value, _COUNT)
        bare = int(whole[1])
    count = _bounded(bare, value, _COUNT)
    if count != int(count):
        raise NotAcceptedError(value, _COUNT)
    return int(count) or None


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


def _bare(value: object, accepted: str) -> int | float | str:
    """A number as it is, nothing at all as 0, text without the blanks around it."""
    if value is None:
        return 0
    if isinstance(value, str):
        if len(value) > _LONGEST:
            raise NotAcceptedError(value, accepted)
        return value.strip() or 0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotAcceptedError(value, accepted)
    return value


def _bounded(quantity: float, value: object, accepted: str) -> float:
    if not 0 <= quantity < CEILING:
        raise NotAcceptedError(value, f"{accepted}, not negative and below 2^63")
    return quantity


def _spelled_duration(text: str) -> float:
    if _PLAIN.fullmatch(text):
        return float(text)
    folded, nanoseconds, position = text.lower(), 0, 0
    while position < len(folded):
        part = _PART.match(folded, position)
        if part is None or part[2] not in _NANOSECONDS:
            raise NotAcceptedError(text, _DURATION)
        nanoseconds += _scaled(part[1], _NANOSECONDS[part[2]])
        position = part.end()
    return nanoseconds / _SECOND


def _spelled_size(text: str) -> int:
    sized = _SIZED.fullmatch(text)
    if sized is None:
        raise NotAcceptedError(text, _SIZE)
    number, prefix, binary = sized.groups()
    power = _PREFIXES.index(prefix.lower()) + 1 if prefix else 0
    return _scaled(number, (1024 if binary else 1000) ** power)


def _scaled(number: str, factor: int) -> int:
    """The decimal number times `factor`, rounded up, without the errors of floating point."""
    whole, _, part = number.partition(".")
    scale: int = 10 ** len(part)
    return -(-int(whole + part) * factor // scale)
