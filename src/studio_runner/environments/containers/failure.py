"""Telling the runtime's own failures from the script's.

A runtime that cannot make a container ends with 255 and says why, in lines that begin with a word such as FATAL in
a column of its own. A script may end with 255 as well; but it cannot have printed anything before the runtime gave
up, and what it prints looks otherwise.
"""

import re
from pathlib import Path

from studio_runner.environments.programs import clean

CODE = 255
LONGEST = 8192
"""Bytes of the output that are looked at."""

_OWN = re.compile(r"(?:INFO|WARNING|ERROR|VERBOSE|DEBUG):\s")
_FATAL = re.compile(r"FATAL:   (.+)")


def fatal_words(code: int | None, output: bytes) -> str | None:
    """Why the runtime never started the script, in its own words; None when it did. `output` is the beginning."""
    if code != CODE:
        return None
    for raw in output[:LONGEST].decode(errors="replace").splitlines():
        line = clean(raw, ())
        if fatal := _FATAL.match(line):
            return fatal[1].strip()
        if line and not _OWN.match(line):
            return None
    return None


def is_about_room(words: str) -> bool:
    """It may go well another time."""
    return "no space left" in words.lower()


def explained(words: str, image: Path) -> tuple[str, str]:
    """A sentence about the container, and a hint, for what people meet most."""
    known = (
        (
            "user namespace",
            "Allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces).",
        ),
        ("no space left", "Free disk space on the runner's machine."),
        ("image format not recognized", "Name an image that this runtime reads, or a sandbox directory."),
        ("executable file not found", "The image lacks that program."),
        ("exec format error", "The image is for another kind of processor."),
    )
    hint = next((mend for sign, mend in known if sign in words.lower()), "`studio-runner doctor` looks closer.")
    return f"The container could not be started: {words.replace(str(image), 'the image')}", hint
