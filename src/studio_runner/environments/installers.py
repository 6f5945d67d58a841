"""What the installers are told, and what their words mean."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from studio_runner.environments.indexes import Indexes
from studio_runner.process.base import Command

_ESSENTIAL_LENGTH = 400
_NOISE = re.compile(
    r"Using (CPython|PyPy|Python) |Creating virtual environment at|Activate with:|\s*$"
    r"|Looking in (indexes|links)|DEPRECATION: |WARNING: (You are using pip|Running pip as)"
)
_ERROR = re.compile(r"\s*(?:error|ERROR|fatal|\u00d7)[:\s]\s*(.+)")
_CAUSE = re.compile(r"\s*(?:cause:|╰─▶|Caused by:)\s*(.+)")
_DISK = re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE)
_RESOLUTION = re.compile(
    r"No solution found when resolving|requirements are unsatisfiable|are incompatible"  # uv
    r"|ResolutionImpossible|depend on conflicting|No matching distribution found"  # pip
    r"|Could not find a version that|Double requirement given",
    re.IGNORECASE,
)
_NETWORK = re.compile(
    r"dns error|failed to lookup address|Temporary failure in name resolution|Could not resolve host"
    r"|error sending request|tcp connect error|Network is unreachable|broken pipe|timed out"
    r"|Connection (refused|reset|aborted)|Remote end closed|IncompleteRead|error decoding response body"
    r"|(NewConnection|ConnectTimeout|ReadTimeout|Protocol|Connection|SSLEOF)Error"
    r"|(429|500|502|503|504) (Too Many|Internal|Bad Gateway|Service|Gateway)|HTTP error (429|5\d\d)",
    re.IGNORECASE,
)


class Trouble(Enum):
    """What kept an installer from its work."""

    NETWORK = auto()
    DISK = auto()
    RESOLUTION = auto()
    OTHER = auto()


@dataclass(frozen=True)
class Failure:
    """A failed installation: of what kind, and the installer's own essential sentence."""

    trouble: Trouble
    sentence: str


def is_noise(line: str) -> bool:
    """True for what tells the reader of an experiment's output nothing."""
    return _NOISE.match(line) is not None


def failure(lines: Sequence[str]) -> Failure:
    """Judge a failed installer by its output."""
    text = "\n".join(lines)
    if _DISK.search(text):
        return Failure(Trouble.DISK, _essential(lines))
    # An index that did not answer looks like one without the package to pip, which says both.
    if _NETWORK.search(text):
        return Failure(Trouble.NETWORK, _essential(lines))
    kind = Trouble.RESOLUTION if _RESOLUTION.search(text) else Trouble.OTHER
    return Failure(kind, _essential(lines))


def _essential(lines: Sequence[str]) -> str:
    """The first error and what was given as its last cause, else the last line."""
    errors = [match.group(1) for line in lines if (match := _ERROR.match(line))]
    if not errors:
        return (lines[-1].strip() if lines else "it ended without a word")[:_ESSENTIAL_LENGTH]
    causes = [match.group(1) for line in lines if (match := _CAUSE.match(line))]
    return ": ".join([errors[0].rstrip(":"), *causes[-1:]])[:_ESSENTIAL_LENGTH]


@dataclass(frozen=True)
class Installer:
    """How one environment's packages are installed: the program with its options, and its variables."""

    argv: tuple[str, ...]
    env: Mapping[str, str]

    def command(self, requirements: Path, options: Iterable[str]) -> Command:
        return Command((*self.argv, *options, "-r", str(requirements)), self.env, requirements.parent)


def uv_installer(uv: str, python: Path, indexes: Indexes, env: Mapping[str, str]) -> Installer:
    argv = (uv, "pip", "install", "--python", str(python), *indexes.uv_options())
    return Installer(argv, {**env, **uv_variables(indexes)})


def uv_variables(indexes: Indexes) -> dict[str, str]:
    """The operator's, and what makes uv's output one that can be read line by line."""
    return {
        # Each request once more, and the whole installation is tried again after a pause anyway.
        "UV_HTTP_RETRIES": "1",
        **indexes.for_uv(),
        "UV_NO_PROGRESS": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "NO_COLOR": "1",
    }


def pip_installer(python: Path, indexes: Indexes, env: Mapping[str, str]) -> Installer:
    argv = (str(python), "-m", "pip", "install")
    own = {
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_COLOR": "1",
        "PIP_NO_INPUT": "1",
        "PIP_NO_PYTHON_VERSION_WARNING": "1",
        "PIP_PROGRESS_BAR": "off",
        "PIP_RETRIES": "1",
    }
    return Installer(argv, {**env, **indexes.for_pip(), **own})
