"""Telling the runtime's own failures from the script's.

A runtime that cannot make a container ends with 255 (or 1, when it cannot even begin) and says why, in lines that
begin with a word such as FATAL in a column of its own. A script may end so as well; but it cannot have printed
anything before the runtime gave up, and what it prints looks otherwise.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from studio_runner.environments.programs import clean

CODE = 255
LONGEST = 8192
"""Bytes of the output that are looked at."""

_OWN = re.compile(r"(?:INFO|WARNING|ERROR|VERBOSE|DEBUG) *:\s")
_FATAL = re.compile(r"FATAL:   (.+)")
_ERROR = re.compile(r"ERROR *: (.+)")
_EARLY_CODE = 1
_EARLY = re.compile(r"ERROR  : (.+ namespace\b.*)")
"""Of the part of it that comes first, a program in C: it ends with 1, and sets its words otherwise."""

_LOOK = "`studio-runner doctor` looks closer."
_MENDS = (
    (
        "user namespace",
        "Allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces).",
    ),
    ("unknown userid", "Give this account an entry in /etc/passwd, or run the runner as a user who has one."),
    ("no space left", "Free disk space on the runner's machine."),
    ("image format not recognized", "Name an image that this runtime reads, or a sandbox directory."),
    ("executable file not found", "The image lacks that program."),
    ("exec format error", "The image is for another kind of processor."),
)


def fatal_words(code: int | None, output: bytes) -> str | None:
    """Why the runtime never started the script, in its own words; None when it did. `output` is the beginning."""
    pattern = {CODE: _FATAL, _EARLY_CODE: _EARLY}.get(code or 0)
    if pattern is None:
        return None
    for raw in output[:LONGEST].decode(errors="replace").splitlines():
        line = clean(raw, ())
        if fatal := pattern.match(line):
            return fatal[1].strip()
        if line and not _OWN.match(line):
            return None
    return None


def last_words(lines: Iterable[str]) -> str:
    """The gravest thing that a runtime said, which has failed for certain; "" when it said nothing."""
    said = [line for raw in lines if (line := clean(raw, ()))]
    for pattern in (_FATAL, _ERROR):
        if found := [match[1].strip() for line in said if (match := pattern.match(line))]:
            return found[-1]
    return said[-1] if said else ""


def is_about_room(words: str) -> bool:
    """It may go well another time."""
    return "no space left" in words.lower()


def explained(words: str, image: Path) -> tuple[str, str]:
    """A sentence about the container, and a hint."""
    return f"The container could not be started: {words.replace(str(image), 'the image')}", mend(words, _LOOK)


def mend(words: str, otherwise: str) -> str:
    """What to do about what people meet most."""
    return next((hint for sign, hint in _MENDS if sign in words.lower()), otherwise)
