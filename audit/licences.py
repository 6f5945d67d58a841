"""The licences of what the runner needs: such as may be used beside Apache-2.0 without conditions on the whole."""

import re
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from audit.pins import Pin
from audit.report import Report

ACCEPTED = frozenset({
    "0BSD", "APACHE-2.0", "BSD", "BSD-2-CLAUSE", "BSD-3-CLAUSE", "ISC", "MIT", "MIT-0", "PSF-2.0", "UNLICENSE",
    "ZLIB", "MPL-2.0",  # the last has conditions on its own files alone, and we change none of them
})  # fmt: skip
_SPELLINGS = {
    "APACHE 2.0": "APACHE-2.0",
    "APACHE LICENSE 2.0": "APACHE-2.0",
    "APACHE SOFTWARE LICENSE": "APACHE-2.0",
    "BSD LICENSE": "BSD",
    "ISC LICENSE (ISCL)": "ISC",
    "MIT LICENSE": "MIT",
    "MOZILLA PUBLIC LICENSE 2.0 (MPL 2.0)": "MPL-2.0",
    "PYTHON SOFTWARE FOUNDATION LICENSE": "PSF-2.0",
}


def check_licences(pins: Iterable[Pin]) -> Report:
    """Of those that are installed here; the others are for other systems or versions of Python."""
    names = {pin.name for pin in pins}
    found = {name: licence_of(installed) for name in sorted(names) if (installed := _installed(name))}
    problems = [f"{name}: {licence or 'none'}" for name, licence in found.items() if not accepted(licence)]
    return Report("licences", f"{len(found)} of the {len(names)} that the runner needs are here", problems)


def licence_of(installed: Distribution) -> str:
    """By its metadata: an expression (PEP 639), else its classifiers, else the first line of the old field."""
    fields = installed.metadata
    if expression := fields["License-Expression"]:
        return str(expression)
    prefix = "License :: OSI Approved :: "
    classifiers = [
        name.removeprefix(prefix) for name in fields.get_all("Classifier") or [] if name.startswith(prefix)
    ]
    return " OR ".join(classifiers) or str(fields["License"] or "").strip().partition("\n")[0]


def accepted(licence: str) -> bool:
    """Every part of an AND must be, and one part of an OR."""
    ways = re.split(r"\s+OR\s+", licence.strip().strip("()"), flags=re.IGNORECASE)
    return any(all(_known(part) for part in _parts(way)) for way in ways)


def _parts(way: str) -> Iterator[str]:
    yield from re.split(r"\s+AND\s+", way, flags=re.IGNORECASE)


def _known(part: str) -> bool:
    name = part.strip().upper()
    return _SPELLINGS.get(name, name) in ACCEPTED


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None
