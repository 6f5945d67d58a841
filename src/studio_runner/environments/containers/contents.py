"""Which interpreters an image has, and what is installed for each: asked once, kept by the image's digest."""

import asyncio
import hashlib
import json
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from studio_runner.environments.files import write_atomically
from studio_runner.environments.images.base import Image
from studio_runner.errors import EnvironmentFailedError

FORMAT = 1
KEPT = 500
"""Images whose contents are remembered on disk."""

_MARK = "studio-runner-python "
_SUFFIX = ".json"

_ASK = """\
import json, os, sys
packages = []
try:
    from importlib.metadata import distributions
    for one in distributions():
        name = one.metadata["Name"]
        if name:
            packages.append([name, one.version, [line for line in one.requires or () if "extra ==" not in line]])
except Exception:
    pass
print("%s%s" % ("MARK", json.dumps({
    "path": sys.executable, "real": os.path.realpath(sys.executable),
    "version": list(sys.version_info[:3]), "packages": packages})))
""".replace("MARK", _MARK)

_LOOK = """\
IFS=:
for folder in $PATH; do
    for name in python3 python python2 'python[23].[0-9]' 'python[23].[0-9][0-9]'; do
        for program in "$folder"/$name; do
            if [ -f "$program" ] && [ -x "$program" ]; then "$program" -c "$1" </dev/null; fi
        done
    done
done
exit 0
"""


@dataclass(frozen=True)
class InstalledPackage:
    """One installed package; `requires` are the names of what it depends on."""

    name: str
    version: str
    requires: tuple[str, ...]


@dataclass(frozen=True)
class ImagePython:
    """An interpreter of an image, at `path` in it."""

    path: str
    version: tuple[int, int, int]
    packages: tuple[InstalledPackage, ...]

    def __str__(self) -> str:
        return f"python {'.'.join(map(str, self.version))}"

    def matches(self, prefix: str) -> bool:
        wanted = [int(part) for part in prefix.split(".") if part.isdecimal()]
        return list(self.version[: len(wanted)]) == wanted


@dataclass(frozen=True)
class Contents:
    """The interpreters of an image, in the order in which its PATH has them."""

    pythons: tuple[ImagePython, ...]

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, "pythons": [asdict(python) for python in self.pythons]})

    @classmethod
    def from_json(cls, text: str) -> "Contents":
        """ValueError, KeyError or TypeError when it is none, or one of another version."""
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise ValueError("another format")
        return cls(tuple(_python(one) for one in document["pythons"]))

    def choose(self, prefix: str) -> ImagePython | None:
        """The newest that matches a version prefix, of equal ones the first on PATH; "" is the first on PATH, and
        rather Python 3."""
        matching = [python for python in self.pythons if python.matches(prefix)]
        if not prefix:
            return next((python for python in matching if python.version[0] > 2), matching[0] if matching else None)
        return max(matching, key=lambda python: python.version, default=None)


def _python(document: dict[str, Any]) -> ImagePython:
    packages = tuple(
        InstalledPackage(**{**one, "requires": tuple(one["requires"])}) for one in document["packages"]
    )
    major, minor, micro = document["version"]
    return ImagePython(document["path"], (major, minor, micro), packages)


def questions() -> tuple[tuple[str, ...], ...]:
    """Commands to run in the image, one after the other until one has an answer: an image may have no shell."""
    return (("/bin/sh", "-c", _LOOK, "sh", _ASK), ("python3", "-c", _ASK), ("python", "-c", _ASK))


def read_answers(lines: Iterable[str]) -> Contents:
    """What the interpreters said; several names of one are one."""
    found: dict[str, ImagePython] = {}
    for line in lines:
        if not line.startswith(_MARK):
            continue
        try:
            said = json.loads(line[len(_MARK) :])
            packages = [
                {"name": str(name), "version": str(version), "requires": tuple(map(_required, requires))}
                for name, version, requires in said["packages"]
            ]
            python = _python({"path": str(said["path"]), "version": said["version"], "packages": packages})
        except (ValueError, KeyError, TypeError, RecursionError):  # whatever an image prints
            continue
        found.setdefault(str(said["real"]), python)
    return Contents(tuple(found.values()))


def _required(line: str) -> str:
    """The name at the beginning of a requirement."""
    end = next((at for at, letter in enumerate(line) if not (letter.isalnum() or letter in "._-")), len(line))
    return line[:end]


class Memory:
    """Contents of images that were asked before, in files below `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, Contents] = {}
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def turn(self, image: Image) -> asyncio.Lock:
        """Held by whoever asks an image."""
        return self._turns.setdefault(_name(image), asyncio.Lock())

    def get(self, image: Image) -> Contents | None:
        name = _name(image)
        if name not in self._known:
            try:
                text = (self._directory / name).read_text(encoding="utf-8")
                self._known[name] = Contents.from_json(text)
            except (OSError, ValueError, KeyError, TypeError):
                return None
        return self._known[name]

    def put(self, image: Image, contents: Contents) -> None:
        name = _name(image)
        self._known[name] = contents
        self._directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self._directory / name, contents.to_json())
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        files = sorted(self._directory.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime)
        for path in files[: len(files) - KEPT] if len(files) > KEPT else ():
            path.unlink(missing_ok=True)


def _name(image: Image) -> str:
    return hashlib.sha256(image.digest.encode()).hexdigest()[:32] + _SUFFIX


def require_python(contents: Contents, prefix: str, image: Image) -> tuple[ImagePython, str]:
    """The interpreter for a version prefix, and a note when it is not what was asked for: existing clients ask for
    the version that they run under themselves, but the image is the sender's choice. EnvironmentFailedError when
    there is none of that major version."""
    python = contents.choose(prefix)
    if python is not None:
        return python, ""
    other = contents.choose(prefix.partition(".")[0])
    if other is not None:
        return other, f"the image has no Python {prefix}; its {other} is used"
    has = _listed(contents.pythons)
    wanted = f"Python {prefix}" if prefix else "Python"
    raise EnvironmentFailedError(
        f"The image {image.name} has no {wanted} on its PATH; it has {has or 'none at all'}",
        hint="Use an image with that interpreter, or ask for another version (pythonver).",
    )


def _listed(pythons: Sequence[ImagePython]) -> str:
    return ", ".join(f"{python} ({python.path})" for python in pythons)
