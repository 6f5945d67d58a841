"""The pinned requirements: that they are pinned and hashed, whole, and what pyproject.toml declares."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from audit.report import Report

RUN, DEV = "run.txt", "dev.txt"
_ADDRESS = re.compile(r"[a-z+]+://|^\s*(-i|-f|--index-url|--extra-index-url|--find-links|--trusted-host)\b")


@dataclass(frozen=True)
class Pin:
    """One requirement of a file; `version` is "" when it is not pinned to one."""

    file: str
    name: str
    version: str
    hashes: int

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"


def read_pins(path: Path) -> list[Pin]:
    return [_pin(path.name, line) for line in _logical(path.read_text().splitlines())]


def pins_in(directory: Path) -> dict[str, list[Pin]]:
    """By file."""
    return {path.name: read_pins(path) for path in sorted(directory.glob("*.txt"))}


def check_pins(root: Path) -> Report:
    files = pins_in(root / "requirements")
    project = tomllib.loads((root / "pyproject.toml").read_text())
    problems = [problem for pins in files.values() for pin in pins for problem in _loose(pin)]
    problems += _addresses(root / "requirements")
    problems += _disagreements(declared(project), files[RUN], RUN)
    problems += _disagreements([*declared(project), *grouped(project, "dev")], files[DEV], DEV)
    problems += _differences(files[RUN], files[DEV])
    count = len({(pin.name, pin.version) for pins in files.values() for pin in pins})
    return Report("pins", f"{count} requirements in {len(files)} files, with hashes", problems)


def declared(project: Mapping[str, Any]) -> list[Requirement]:
    return [Requirement(line) for line in project["project"]["dependencies"]]


def grouped(project: Mapping[str, Any], name: str) -> Iterator[Requirement]:
    """Those of a dependency group (PEP 735), with the groups that it includes."""
    for entry in project["dependency-groups"][name]:
        if isinstance(entry, str):
            yield Requirement(entry)
        else:
            yield from grouped(project, entry["include-group"])


def _logical(lines: Iterable[str]) -> Iterator[str]:
    pending = ""
    for line in lines:
        pending += line.partition(" #")[0].strip().removesuffix("\\") + (" " if line.endswith("\\") else "")
        if not line.endswith("\\"):
            if pending and not pending.startswith("#"):
                yield pending
            pending = ""


def _pin(file: str, line: str) -> Pin:
    spelled, *hashes = line.split(" --hash=")
    try:
        wanted = Requirement(spelled.strip())
    except InvalidRequirement:
        return Pin(file, spelled.strip(), "", len(hashes))
    exact = [one.version for one in wanted.specifier if one.operator == "==" and "*" not in one.version]
    return Pin(file, canonicalize_name(wanted.name), exact[0] if len(exact) == 1 else "", len(hashes))


def _loose(pin: Pin) -> Iterator[str]:
    if not pin.version:
        yield f"{pin} is not pinned to one version"
    if not pin.hashes:
        yield f"{pin} has no hash"


def _addresses(directory: Path) -> Iterator[str]:
    for path in sorted(directory.glob("*.txt")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if _ADDRESS.search(line):
                yield f"{path.name} line {number} names where to get it from"


def _disagreements(wanted: Iterable[Requirement], pins: Iterable[Pin], file: str) -> Iterator[str]:
    """Versions by name: a name may be pinned twice, for different versions of Python."""
    found: dict[str, list[str]] = {}
    for pin in pins:
        found.setdefault(pin.name, []).append(pin.version)
    for requirement in wanted:
        versions = found.get(canonicalize_name(requirement.name), [])
        if not any(requirement.specifier.contains(version, prereleases=True) for version in versions):
            yield f"{file} has {', '.join(versions) or 'nothing'} for what pyproject.toml declares: {requirement}"


def _differences(run: Iterable[Pin], dev: Iterable[Pin]) -> Iterator[str]:
    """What is tested is what runs."""
    tested = {(pin.name, pin.version) for pin in dev}
    for pin in run:
        if (pin.name, pin.version) not in tested:
            yield f"{pin} {pin.version} is not what {DEV} has"
