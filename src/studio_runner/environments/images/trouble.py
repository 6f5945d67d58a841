"""What went wrong with a pull, from the runtime's own words."""

import re
from collections.abc import Callable, Sequence

from studio_runner.errors import (
    ArtifactInvalidError,
    EnvironmentFailedError,
    EnvironmentUnavailableError,
    ExperimentError,
    UnauthorisedError,
)

_LONGEST = 400
_LEVEL = re.compile(r"^(FATAL|ERROR|WARNING|INFO|DEBUG|VERBOSE\d?):?\s+")
_STEPS = (
    "While [^:]+",
    "error fetching image to cache",
    "while building SIF from layers",
    "conveyor failed to get",
    "unable to Download Image",
    "error writing layer",
)
_STACK = re.compile(rf"^({'|'.join(_STEPS)}):\s+")

_Kind = Callable[[str, str], ExperimentError]


class NoRoomError(EnvironmentUnavailableError):
    """Waiting a few seconds does not help."""


def _unauthorised(name: str, words: str) -> ExperimentError:
    return UnauthorisedError(
        f"The registry refuses the image {name}: {words}",
        hint="Give the artifact _singularity credentials, or the runner a file of logins (--registry-auth).",
    )


def _no_such(name: str, words: str) -> ExperimentError:
    return EnvironmentFailedError(f"There is no image {name}: {words}", hint="Look at its name and its tag.")


def _foreign(name: str, words: str) -> ExperimentError:
    return ArtifactInvalidError(f"The image {name} is not made for this kind of machine: {words}")


def _damaged(name: str, words: str) -> ExperimentError:
    return ArtifactInvalidError(
        f"The image {name} is damaged where it is stored: {words}", hint="Push the image again."
    )


def _full(name: str, words: str) -> ExperimentError:
    return NoRoomError(
        f"There is no room for the image {name}: {words}",
        hint="Free disk space where the runner's cache directory is.",
    )


def _no_answer(name: str, words: str) -> ExperimentError:
    return EnvironmentUnavailableError(f"The image {name} could not be pulled: {words}")


def _no_tool(name: str, words: str) -> ExperimentError:
    return EnvironmentFailedError(
        f"The image {name} cannot be unpacked here: {words}", hint="Install squashfs-tools on the runner's machine."
    )


def _failed(name: str, words: str) -> ExperimentError:
    return EnvironmentFailedError(f"The image {name} could not be made ready: {words}")


_FULL = ("no space left on device", "disk quota exceeded")
_NO_TOOL = (r"(mk|un)squashfs\S* (is )?not (found|installed)", r"squashfs\": executable file not found")
_FOREIGN = ("no child with platform", "no image found in (manifest list|image index)", "no matching manifest")
_DAMAGED = (
    *("error verifying (sha256 checksum|digest)", "digest (mis|did not )match", "invalid checksum"),
    *("does not match digest", "gzip: invalid", "invalid (tar|gzip) header", "FATAL ERROR", "failed to uncompress"),
    *("while extracting", "could not (read|load) (sif|image)", "bad magic", "corrupt"),
)
_UNAUTHORISED = (
    *("unauthori[sz]ed", "authentication required", "(?<!permission )denied", "invalid username/password"),
    "forbidden",
)
_NO_SUCH = ("manifest[ _]unknown", "name[ _]unknown", "not found", "does not exist")
_NO_ANSWER = (
    *("connection (refused|reset)", "no such host", "timed? ?out", "timeout", "deadline exceeded", "tls:", "x509"),
    *(
        "unexpected EOF",
        "unreachable",
        "too ?many ?requests",
        "status:? (code )?5[0-9][0-9]",
        "no response received",
    ),
    *("broken pipe", "server misbehaving"),
)

_TROUBLES: tuple[tuple[tuple[str, ...], _Kind], ...] = (
    (_FULL, _full),
    (_NO_TOOL, _no_tool),
    (_FOREIGN, _foreign),
    (_DAMAGED, _damaged),
    (_UNAUTHORISED, _unauthorised),
    (_NO_SUCH, _no_such),
    (_NO_ANSWER, _no_answer),
)
"""In the order in which they are looked for."""


def pull_error(name: str, lines: Sequence[str]) -> ExperimentError:
    """From all that the runtime said; what it said last counts."""
    words = sentence(lines)
    for patterns, kind in _TROUBLES:
        if any(re.search(pattern, words, re.IGNORECASE) for pattern in patterns):
            return kind(name, words)
    return _failed(name, words)


def sentence(lines: Sequence[str]) -> str:
    """The line that says what was wrong, without what only a developer of the runtime reads."""
    fatal = [line for line in lines if line.startswith(("FATAL", "ERROR"))]
    words = _LEVEL.sub("", (fatal or [line for line in lines if line.strip()] or ["it said nothing"])[-1])
    while shorter := _STACK.match(words):
        words = words[shorter.end() :]
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}..."
