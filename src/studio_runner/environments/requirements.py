"""Freeze lists from somebody else's machine, made fit for this one (INTERFACE section 4)."""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    is_normalized_name,
    parse_sdist_filename,
    parse_wheel_filename,
)

from studio_runner.environments.indexes import Choices, Sources
from studio_runner.errors import EnvironmentFailedError

TOOLS = frozenset({"pip", "setuptools", "wheel", "distribute"})
"""Packaging tools: a pin of theirs that this interpreter cannot use must not break an experiment."""

MOST_EXPANDED = 1 << 17
"""Characters of variables that a list may take in: a few letters in it can stand for a long value."""

_INTERPRETER_PARTS = frozenset({"python", "pkg-resources", "wsgiref"})
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_COMMENT = re.compile(r"(?:^|(?<=\s))#.*$")
_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?=$|[\s\[(<>=!~;@,])")
_NAMED_URL = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*+(\[[^\]]*\])?\s*@\s*(\S+)(.*)")
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*={2,3}\s*([^\s;,#]+)")
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
_VCS = ("git+", "hg+", "svn+", "bzr+")

_SINGLE = {"-i": "--index-url", "-f": "--find-links", "--pypi-url": "--index-url"}
_WITH_VALUE = frozenset({"--index-url", "--extra-index-url", "--find-links", "--no-binary", "--only-binary"})
_FLAGS = frozenset({"--no-index", "--pre"})
_WITHOUT_EFFECT = frozenset({"--prefer-binary", "--require-hashes", "--trusted-host", "--use-feature"})
_ACCEPTED = ", ".join(sorted(_WITH_VALUE | _FLAGS))


@dataclass(frozen=True)
class Target:
    """What the list is for: the interpreter's version and whether the experiment has GPUs."""

    version: tuple[int, ...]
    gpus: bool = False


@dataclass(frozen=True)
class RequirementSet:
    """A list the installer can be given. `lines` may hold expanded secrets, the texts in `notes` never do;
    `secrets` are the values to mask wherever the installer repeats them, `setuptools` the line that stands in for
    whatever the list says of it, where that does not work."""

    lines: tuple[str, ...] = ()
    sources: Sources = field(default_factory=Sources)
    choices: Choices = field(default_factory=Choices)
    notes: tuple[str, ...] = ()
    secrets: frozenset[str] = frozenset()
    setuptools: str = ""

    def without_tools(self) -> tuple[str, ...]:
        """The lines less pins of packaging tools, and with `setuptools`, the interpreter's own."""
        lines = tuple(line for line in self.lines if requirement_name(line) not in TOOLS)
        return (*lines, self.setuptools) if self.setuptools else lines


def mask_url(text: str) -> str:
    """`text` with the user information of every URL in it masked."""
    return _USER_INFO.sub("***@", text)


def requirement_name(line: str) -> str:
    """The normalised name of the package a line asks for; empty when it has none."""
    match = _NAME.match(line)
    return canonicalize_name(match.group(1)) if match else ""


def read_requirements(lines: Iterable[str], variables: Mapping[str, str], target: Target) -> RequirementSet:
    """Apply the freeze-list rules; EnvironmentFailedError for a line that must not be passed on."""
    reader = _Reader(variables, target)
    for line in _logical(lines):
        reader.take(line)
    return reader.result()


def _logical(lines: Iterable[str]) -> Iterator[str]:
    """Lines with continuations joined, comments and blanks left out."""
    pending: list[str] = []
    for element in (*lines, ""):
        for physical in element.splitlines() or [""]:
            if physical.endswith("\\"):
                pending.append(physical[:-1])
                continue
            text = "".join((*pending, physical))
            pending.clear()
            if stripped := _COMMENT.sub("", text).strip():
                yield stripped


class _Reader:
    """Takes line after line; `result` is the whole list."""

    def __init__(self, variables: Mapping[str, str], target: Target) -> None:
        self._variables = variables
        self._target = target
        self._lines: dict[str, str] = {}
        self._sent: dict[str, str] = {}
        self._options: list[tuple[str, str]] = []
        self._notes: list[str] = []
        self._secrets: set[str] = set()
        self._expanded = 0

    def take(self, sent: str) -> None:
        line = self._expand(sent)
        if sent.startswith(("-e", "--editable")):
            self._editable(line, sent)
        elif line.startswith("-"):
            self._option(line, sent)
        else:
            self._requirement(line, sent)

    def result(self) -> RequirementSet:
        def of(name: str) -> tuple[str, ...]:
            return tuple(value for option, value in self._options if option == name)

        return RequirementSet(
            lines=tuple(self._lines.values()),
            sources=Sources(
                default=next(iter(of("--index-url")[-1:]), None),
                extra=of("--extra-index-url"),
                find_links=of("--find-links"),
                no_index=bool(of("--no-index")),
            ),
            choices=Choices(
                prereleases=bool(of("--pre")),
                no_binary=tuple(name for value in of("--no-binary") for name in value.split(",")),
                only_binary=tuple(name for value in of("--only-binary") for name in value.split(",")),
            ),
            notes=tuple(self._notes),
            secrets=frozenset(self._secrets),
        )

    def _expand(self, line: str) -> str:
        def value(match: re.Match[str]) -> str:
            known = self._variables.get(match.group(1))
            if known is None:
                return match.group()
            if not known.isprintable():
                raise EnvironmentFailedError(
                    f"The variable {match.group(1)} in the requirement '{mask_url(line)}' holds a line break or "
                    "another control character"
                )
            self._expanded += len(known)
            if self._expanded > MOST_EXPANDED:
                raise EnvironmentFailedError(
                    f"The requirements get too long when their variables ({match.group()} among them) are put in",
                    hint=f"All that is put in may have {MOST_EXPANDED} characters.",
                )
            # What stands in a URL may be a token; a version number must not black out every version number.
            if "://" in line and known:
                self._secrets.add(known)
            return known

        return _VARIABLE.sub(value, line)

    def _note(self, text: str, sent: str) -> None:
        self._notes.append(f"{mask_url(sent)}: {text}")

    def _note_instead(self, instead: str, line: str, sent: str) -> None:
        shown = instead if line in sent else "what its name says"  # with variables put in it may hold a secret
        self._note(f"that file is not on this machine, {shown} is installed instead", sent)

    def _requirement(self, line: str, sent: str) -> None:
        name = requirement_name(line)
        if name in _INTERPRETER_PARTS or (name == "argparse" and _has_argparse(self._target.version)):
            self._note("left out, it is part of the interpreter", sent)
            return
        if named := _NAMED_URL.fullmatch(line):
            line = self._named_url(named, sent)
        elif _is_local(line):
            self._local(line, sent)
            return
        elif self._target.gpus and name == "tensorflow":
            line = self._tensorflow(line, sent)
        self._keep(line, sent)

    def _keep(self, line: str, sent: str) -> None:
        """Put the line on the list; of two pins of one package the last counts, as two can never be satisfied."""
        if line.startswith("-"):  # whatever it was made of: an option is taken by `_option` or not at all
            raise _refused(sent, "it would be an option of the installer")
        pin = _PIN.fullmatch(line)
        key = f"{canonicalize_name(pin.group(1))}==" if pin else line
        if pin and self._lines.get(key, line) != line:
            self._note(f"used instead of {mask_url(self._sent[key])}, both are in the list", sent)
        self._lines.pop(key, None)
        self._lines[key], self._sent[key] = line, sent

    def _named_url(self, match: re.Match[str], sent: str) -> str:
        name, extras, url, rest = match.group(1), match.group(2) or "", match.group(3), match.group(4)
        if _VARIABLE.search(url) or not url.lower().startswith("file:") or _exists(url):
            return match.group()
        pinned = _pinned(url)
        instead = f"{name}{extras}{'==' + pinned[1] if pinned else ''}"
        self._note_instead(instead, match.group(), sent)
        return instead + rest

    def _local(self, line: str, sent: str) -> None:
        """A path or file URL on its own."""
        path, _, rest = line.partition(";")
        if path.startswith(("/", "file:")) and _exists(path.strip()):
            self._keep(line, sent)
        elif pinned := _pinned(path.strip()):
            instead = "==".join(pinned)
            self._note_instead(instead, line, sent)
            self._keep(instead + (f" ;{rest}" if rest else ""), sent)
        else:
            self._note("left out, that directory is on the sender's machine", sent)

    def _editable(self, line: str, sent: str) -> None:
        """Installed like any other: nobody edits an environment that is shared and read-only."""
        place = re.sub(r"^(-e|--editable)[\s=]*", "", line)
        if not place.startswith(_VCS):
            if _NAMED_URL.fullmatch(place):
                self._requirement(place, sent)
            else:
                self._local(place, sent)
            return
        url, _, fragment = place.partition("#")
        parts = dict(part.partition("=")[::2] for part in fragment.split("&"))
        name = parts.pop("egg", "").split("[")[0]
        name = name if requirement_name(name) else ""
        rest = "&".join(f"{key}={value}" for key, value in parts.items() if key)
        self._keep((f"{name} @ " if name else "") + url + (f"#{rest}" if rest else ""), sent)

    def _tensorflow(self, line: str, sent: str) -> str:
        """Before 1.15 the package for GPUs had a name of its own; clients send the other one."""
        pin = _PIN.match(line)
        if pin is None or not re.match(r"1\.(\d|1[0-4])(\D|$)", pin.group(2)):
            return line
        self._note("tensorflow-gpu is installed, the experiment has GPUs", sent)
        return "tensorflow-gpu" + line[len("tensorflow") :]

    def _option(self, line: str, sent: str) -> None:
        try:
            words = shlex.split(line)
        except ValueError:
            words = line.split()
        while words:
            option, equals, value = words.pop(0).partition("=")
            option = _SINGLE.get(option, option)
            if option in _WITHOUT_EFFECT:
                self._note("left out, it has no effect here", sent)
                return
            if option not in _WITH_VALUE | _FLAGS or (option in _WITH_VALUE and not (equals or words)):
                raise _refused(sent, f"accepted are {_ACCEPTED}")
            if option in _WITH_VALUE and not equals:
                value = words.pop(0)
            if option in ("--index-url", "--extra-index-url", "--find-links") and not _is_web(value):
                raise _refused(
                    sent, "it must be an http or https URL, files of the runner's machine are not readable so"
                )
            self._options.append((option, value))


def _refused(sent: str, why: str) -> EnvironmentFailedError:
    return EnvironmentFailedError(
        f"The requirement line '{mask_url(sent)}' is not allowed: {why}",
        hint="Take it out of the experiment's pythonenv.",
    )


def _has_argparse(version: tuple[int, ...]) -> bool:
    return version >= (3, 2) or (2, 7) <= version < (3, 0)


def _is_web(url: str) -> bool:
    try:
        return urlsplit(url).scheme in ("http", "https")
    except ValueError:  # no host looks like that
        return False


def _is_local(line: str) -> bool:
    place = line.partition(";")[0].strip()
    if place.startswith((".", "/", "~", "file:")):
        return True
    return "://" not in place and ("/" in place or place.endswith((".whl", ".tar.gz", ".zip")))


def _path(place: str) -> str:
    """Of a file's URL; empty when that is none."""
    if not place.lower().startswith("file:"):
        return place
    try:
        return unquote(urlsplit(place).path)
    except ValueError:
        return ""


def _exists(place: str) -> bool:
    path = Path(_path(place))
    try:
        return path.is_absolute() and path.exists()
    except (OSError, ValueError):  # no file can have such a name, or nobody may look there
        return False


def _pinned(place: str) -> tuple[str, str] | None:
    """Name and version, where the name of the file says them."""
    file = Path(_path(place).rstrip("/")).name
    try:
        name, version, *_ = parse_wheel_filename(file)
    except InvalidWheelFilename:
        try:
            name, version = parse_sdist_filename(file)
        except InvalidSdistFilename:
            return None
    # `-r-1.0.tar.gz` would become an option of the installer's
    return (name, str(version)) if is_normalized_name(name) else None
