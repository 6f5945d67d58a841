"""What other programs know of the pinned requirements: uv of releases that were taken back, pip-audit and an
advisory database of vulnerabilities, deptry of what is declared and not used, or used and not declared."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from packaging.utils import canonicalize_name
from packaging.version import Version

from audit.pins import DEV, Pin
from audit.report import Report

_PROGRAMS = Path(sys.executable).parent
_YANKED = re.compile(r"`([^`]+)` is yanked(?: \(reason: (.*)\))?")
_PATIENCE = 120


def check_yanked(root: Path) -> Report:
    """uv says it of each file that it would install, without installing anything."""
    install = ("pip", "install", "--dry-run", "--reinstall", "--no-deps", "--require-hashes")
    code, _, said = _run("uv", *install, "-r", str(root / "requirements" / DEV))
    subject, summary = "yanked", "no release was taken back"
    if code:
        return Report(subject, summary, missed=f"uv could not ask the index: {_last(said)}")
    problems = [f"{name}: {why or 'no reason is given'}" for name, why in _YANKED.findall(said)]
    return Report(subject, f"{len(problems)} releases were taken back" if problems else summary, problems)


def check_declared(root: Path) -> Report:
    code, said, more = _run("deptry", str(root / "src"), "--no-ansi", "--config", str(root / "pyproject.toml"))
    problems = [line for line in f"{said}\n{more}".splitlines() if re.search(r"DEP\d{3}", line)]
    if code and not problems:
        return Report("declared", "deptry", missed=f"it did not work: {_last(more)}")
    return Report("declared", "what is imported is declared, what is declared is imported", problems)


def check_vulnerabilities(root: Path, pins: Sequence[Pin], advisories: Path | None) -> Report:
    """With `advisories`, a checkout of the Python packaging advisory database, that is asked; else pip-audit's
    service."""
    if advisories is not None:
        return _offline(pins, advisories)
    options = ("--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json")
    _, said, more = _run("pip-audit", "-r", str(root / "requirements" / DEV), *options)
    try:
        found = json.loads(said)["dependencies"]
    except (ValueError, KeyError):
        silent = f"pip-audit's service does not answer: {_last(more)}"
        return Report("vulnerabilities", f"audited 0 of {len(pins)}", missed=silent)
    return _judged(found)


def _offline(pins: Sequence[Pin], advisories: Path) -> Report:
    if not (advisories / "vulns").is_dir():
        return Report("vulnerabilities", f"audited 0 of {len(pins)}", missed=f"no advisories in {advisories}")
    problems = [problem for pin in pins for problem in _known(pin, advisories)]
    return Report("vulnerabilities", f"audited {len(pins)} of {len(pins)} against {advisories}", problems)


def _judged(found: Sequence[dict[str, Any]]) -> Report:
    problems = [
        f"{one['name']} {one['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'no release'}"
        for one in found
        for flaw in one.get("vulns", ())
    ]
    skipped = sum("skip_reason" in one for one in found)
    missed = f"pip-audit's service does not know {skipped} of them" if skipped else ""
    return Report("vulnerabilities", f"audited {len(found) - skipped} of {len(found)}", problems, missed)


def _known(pin: Pin, advisories: Path) -> Iterator[str]:
    for path in sorted((advisories / "vulns" / pin.name).glob("*.yaml")):
        advisory = yaml.safe_load(path.read_bytes())
        if "withdrawn" not in advisory and any(_affects(one, pin) for one in advisory.get("affected", ())):
            yield f"{pin.name} {pin.version}: {advisory['id']}"


def _affects(affected: dict[str, Any], pin: Pin) -> bool:
    if canonicalize_name(affected["package"]["name"]) != pin.name:
        return False
    if pin.version in map(str, affected.get("versions", ())):
        return True
    ranges = (one for one in affected.get("ranges", ()) if one["type"] == "ECOSYSTEM")
    return any(_in_range(Version(pin.version), one["events"]) for one in ranges)


def _in_range(version: Version, events: Iterable[dict[str, Any]]) -> bool:
    """As the OSV schema has it: the events in the order of versions, the last one at or before it counts."""
    inside = False
    for event in events:
        [(kind, where)] = event.items()
        reached = where == "0" or version >= Version(str(where))
        if kind == "last_affected":
            inside = inside and version <= Version(str(where))
        elif reached:
            inside = kind == "introduced"
    return inside


def _run(program: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output, errors. A program that does not end is as good as none."""
    try:
        done = subprocess.run(
            (str(_PROGRAMS / program), *arguments), capture_output=True, text=True, check=False, timeout=_PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, "", str(error)
    return done.returncode, done.stdout, done.stderr


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:160] if lines else "it says nothing"
