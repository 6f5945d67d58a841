"""How the text or TOML value of a setting becomes its typed value; ValueError when it cannot."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from studio_runner.messages import units
from studio_runner.messages.secrets import mask_urls


@dataclass(frozen=True)
class Kind:
    """`accepted` completes the sentence "accepted is ..."; `show` writes a value for people."""

    metavar: str
    accepted: str
    read: Callable[[object], object]
    show: Callable[[object], str] = str


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not text")  # noqa: TRY004  every refusal is a ValueError
    if "\0" in value:
        raise ValueError("a NUL character in it")
    return value


def _path(value: object) -> Path:
    text = _text(value)
    if not text:
        raise ValueError("an empty path")
    return Path(text)


def _optional_path(value: object) -> Path | None:
    return _path(value) if _text(value) else None


def _url(value: object) -> str:
    text = _text(value).strip()
    scheme, separator, rest = text.partition("://")
    if text and not (scheme and separator and rest):
        raise ValueError("no scheme or no host in it")
    return text


def _names(value: object) -> tuple[str, ...]:
    """A list, or text with commas or blanks between the names."""
    if isinstance(value, list):
        return tuple(_text(member) for member in value)
    return tuple(_text(value).replace(",", " ").split())


def _slots(value: object) -> tuple[tuple[str, int], ...]:
    """A table of names and whole numbers, or text such as `A100 = 30, RTX 4090 = 12`."""
    rows = value.items() if isinstance(value, dict) else _assignments(_text(value))
    return tuple((_card_name(name), _number_of_slots(number)) for name, number in rows)


def _assignments(text: str) -> Iterator[tuple[str, object]]:
    for entry in filter(None, map(str.strip, text.split(","))):
        name, equals, number = entry.rpartition("=")
        if not equals:
            raise ValueError(f"no `=` in {entry!r}")
        yield name.strip(), number


def _card_name(name: str) -> str:
    if not re.search(r"[A-Za-z0-9]", name):
        raise ValueError("no name of a card before a number")
    return name


def _number_of_slots(value: object) -> int:
    slots = units.parse_count(value) or 0
    if not 1 <= slots <= 10_000:
        raise ValueError("slots are whole numbers from 1 to 10000")
    return slots


def _pattern(value: object) -> str:
    text = _text(value)
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return text


def _number(read: Callable[[object], float | None], least: float = 0) -> Callable[[object], object]:
    def reading(value: object) -> float:
        number = read(value) or 0
        if number < least:
            raise ValueError(f"it is below {least:g}")
        return number

    return reading


_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


def _switch(value: object) -> bool:
    word = str(value).strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError("neither true nor false")
    return word in _TRUE


def says_yes(text: str) -> bool:
    """For variables that other programs use as well: anything but a plain yes is no."""
    return text.strip().lower() in _TRUE


def _address(value: object) -> str:
    text = _text(value).strip()
    if text in ("", "none"):
        return ""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("no port at its end")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("an IPv6 address without brackets")
    return f"{host or '0.0.0.0'}:{int(port)}"  # noqa: S104  `:9090` means every interface, as it does elsewhere


def _choice(*words: str) -> Kind:
    def reading(value: object) -> str:
        word = _text(value).strip().lower()
        if word not in words:
            raise ValueError("not one of them")
        return word

    return Kind("|".join(words), ", ".join(words[:-1]) + f" or {words[-1]}", reading)


def _show_switch(value: object) -> str:
    return "true" if value else "false"


def _show_duration(value: object) -> str:
    return units.format_duration(float(str(value))) if value else "0"


def _show_size(value: object) -> str:
    return units.format_size(int(str(value))) if value else "0"


def _show_path(value: object) -> str:
    return "" if value is None else str(value)


def _show_names(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _show_slots(value: object) -> str:
    return ", ".join(f"{name} = {slots}" for name, slots in value) if isinstance(value, tuple) else str(value)


_SPELLINGS = "a duration such as 90s, 1h30m or 2d, or a number of seconds"

TEXT = Kind("TEXT", "text", _text)
PATH = Kind("PATH", "a path", _path)
OPTIONAL_PATH = Kind("PATH", "a path, or nothing", _optional_path, _show_path)
URL = Kind("URL", "an address such as SCHEME://HOST[:PORT]/...", _url, lambda value: mask_urls(str(value)))
NAMES = Kind("NAME,NAME...", "names with commas between them, or a list of names", _names, _show_names)
PATTERN = Kind("REGEX", "a regular expression", _pattern)
DURATION = Kind("DURATION", _SPELLINGS, _number(units.parse_duration), _show_duration)
PERIOD = Kind("DURATION", f"{_SPELLINGS}, at least 50 ms", _number(units.parse_duration, 0.05), _show_duration)
SIZE = Kind("SIZE", "a size such as 3gb, 512MiB or a number of bytes", _number(units.parse_size), _show_size)
COUNT = Kind("NUMBER", "a whole number", _number(units.parse_count))
TIMES = Kind("NUMBER", "a whole number, at least 1", _number(units.parse_count, 1))
SLOTS = Kind(
    "NAME=SLOTS,...",
    "names of cards with their slots, such as A100=30,RTX 4090=12, or a table of them",
    _slots,
    _show_slots,
)
SWITCH = Kind("true|false", "true or false", _switch, _show_switch)
ADDRESS = Kind("HOST:PORT", "HOST:PORT, for example 127.0.0.1:9090, or none", _address)
LEVEL = _choice("debug", "info", "warning", "error")
HTTP_SCHEME = _choice("http", "https")
CGROUPS = _choice("auto", "off")
LOG_FORMAT = _choice("text", "json")
USE = _choice("allowed", "refused")
UNPACK = _choice("auto", "always", "never")
