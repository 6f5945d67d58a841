"""What an experiment needs installed: from files that are named, the active virtual environment, or the project.

The result is a list of requirement lines for the message (`pythonenv`), each complete in itself: nested files are
resolved here, since the runner reads no files of its host on a sender's word.
"""

import asyncio
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from studio_runner.errors import NotFoundError, StudioRunnerError, UsageError

_INCLUDE = re.compile(r"(?:-r|--requirement)(?:\s+|=)?(?P<name>.+)")
_CONSTRAINT = re.compile(r"(?:-c|--constraint)\b")
_COMMENT = re.compile(r"(?:^|\s)#.*$")
_LOCAL = re.compile(r"(?P<editable>(?:-e|--editable)(?:\s+|=))?(?P<path>\.{0,2}/\S*|\.{1,2})(?P<extras>\[[^]]*\])?")
_FILE_URL = re.compile(r"(?:-e|--editable)\s+(?P<url>file://\S+)")
_OWN_NAME = re.compile(r"studio[-_.]runner\s*(?:==|@)", re.IGNORECASE)
_SELF = re.compile(r"(?P<name>[A-Za-z0-9._-]+)\s*\[(?P<extras>[^]]*)\]\s*")


@dataclass(frozen=True)
class Requirements:
    """Requirement lines, a phrase that says where they are from, and what a person should know about them."""

    lines: tuple[str, ...]
    source: str
    notes: tuple[str, ...] = ()

    def plus(self, packages: Sequence[str]) -> "Requirements":
        """With further lines (`--python-pkg`) after the others."""
        return Requirements((*self.lines, *packages), self.source, self.notes)


@dataclass(frozen=True)
class Wanted:
    """What the command line says about requirements."""

    files: tuple[Path, ...] = ()
    pyproject: Path | None = None
    extras: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


async def gather(wanted: Wanted, workspace: Path, virtualenv: Path | None) -> Requirements:
    """What was asked for; else the freeze of the active virtual environment; else the workspace's own
    requirements.txt or pyproject.toml; else nothing."""
    if wanted.files or wanted.pyproject:
        found = _named(wanted, workspace)
    elif wanted.extras:
        found = from_pyproject(workspace / "pyproject.toml", wanted.extras)
    elif virtualenv is not None:
        found = await freeze(virtualenv, workspace)
    else:
        found = _of_project(workspace)
    return found.plus(wanted.packages)


def from_file(path: Path, workspace: Path) -> Requirements:
    """The lines of a requirements file, nested `-r` files included."""
    lines, notes = _settle(_read(path, ()), workspace)
    return Requirements(lines, str(path), notes)


def from_pyproject(path: Path, extras: Sequence[str] = ()) -> Requirements:
    """`project.dependencies` and the named optional groups."""
    project = _project(path)
    wanted = [*_dependencies(project, path)]
    for extra in extras:
        wanted += _extra(project, extra, path, ())
    named = f"{path} [{', '.join(extras)}]" if extras else str(path)
    return Requirements(tuple(dict.fromkeys(wanted)), named)


async def freeze(virtualenv: Path, workspace: Path) -> Requirements:
    """What is installed in a virtual environment, without the workspace itself and without this program."""
    python = virtualenv / "bin" / "python"
    if not python.exists():
        raise UsageError(
            f"VIRTUAL_ENV is {virtualenv}, and there is no {python}",
            hint="Activate an environment that exists, or name the requirements with --requirements FILE.",
        )
    lines, notes = _settle((await _freeze_lines(python)).splitlines(), workspace)
    return Requirements(lines, f"the virtual environment {virtualenv}", notes)


def python_version(virtualenv: Path | None) -> str:
    """Major and minor version of the active virtual environment's Python, else of the one that runs this."""
    if virtualenv is not None:
        for line in _lines_of(virtualenv / "pyvenv.cfg"):
            name, _, value = line.partition("=")
            if name.strip() in ("version", "version_info"):
                return ".".join(value.strip().split(".")[:2])
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _named(wanted: Wanted, workspace: Path) -> Requirements:
    parts = [from_file(path, workspace) for path in wanted.files]
    if wanted.pyproject is not None:
        parts.append(from_pyproject(wanted.pyproject, wanted.extras))
    return Requirements(
        tuple(dict.fromkeys(line for part in parts for line in part.lines)),
        ", ".join(part.source for part in parts),
        tuple(note for part in parts for note in part.notes),
    )


def _of_project(workspace: Path) -> Requirements:
    if (workspace / "requirements.txt").is_file():
        return from_file(workspace / "requirements.txt", workspace)
    pyproject = workspace / "pyproject.toml"
    if pyproject.is_file() and "project" in _toml(pyproject):
        return from_pyproject(pyproject)
    return Requirements((), "no virtual environment is active, no requirements.txt or pyproject.toml here")


def _read(path: Path, above: tuple[Path, ...]) -> Iterator[str]:
    if path in above:
        raise UsageError(f"{path} includes itself by way of {above[-1]}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        by = f", which {above[-1]} includes," if above else ""
        raise NotFoundError(f"The requirements file {path}{by} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The requirements file {path} cannot be read: {error}") from error
    for line in _logical(text):
        if include := _INCLUDE.fullmatch(line):
            yield from _read(path.parent / include["name"].strip().strip("\"'"), (*above, path))
        elif _CONSTRAINT.match(line):
            raise UsageError(
                f"{path}: `{line}` is not understood: constraints do not travel with an experiment",
                hint="Compile them into one file first: `uv pip compile requirements.txt -c constraints.txt`.",
            )
        else:
            yield _absolute(line, path.parent)


def _logical(text: str) -> Iterator[str]:
    """Lines with continuations joined, without comments and blanks."""
    for line in re.sub(r"\\\r?\n", "", text).splitlines():
        if bare := _COMMENT.sub("", line).strip():
            yield bare


def _absolute(line: str, base: Path) -> str:
    """A requirement that is a path of this machine, made independent of the file it stood in."""
    if not (found := _LOCAL.fullmatch(line)):
        return line
    path = (base / found["path"]).resolve()
    return f"-e {path.as_uri()}" if found["editable"] else f"{path}{found['extras'] or ''}"


def _settle(lines: Iterable[str], workspace: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Drop what is not to be installed for an experiment; the second result says what and why."""
    kept: dict[str, None] = {}
    notes = []
    for line in lines:
        if _OWN_NAME.match(line):
            continue
        path = _path_of(line)
        if path is not None and (path == workspace or path in workspace.parents):
            notes.append(f"left out `{line}`: the working directory itself travels with the experiment")
        else:
            kept[line] = None
    return tuple(kept), tuple(notes)


def _path_of(line: str) -> Path | None:
    if found := _FILE_URL.match(line):
        return Path(unquote(urlsplit(found["url"]).path)).resolve()
    return Path(line.partition("[")[0]).resolve() if line.startswith("/") else None


async def _freeze_lines(python: Path) -> str:
    """uv reads an environment in milliseconds; pip is for those that uv does not know (Python 2.7)."""
    from studio_runner.environments.uv import uv_binary  # noqa: PLC0415  only when there is something to freeze

    said = ""
    for command in (
        (str(uv_binary()), "pip", "freeze", "--quiet", "--python", str(python)),
        (str(python), "-m", "pip", "freeze", "--disable-pip-version-check"),
    ):
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, problems = await process.communicate()
        if process.returncode == 0:
            return out.decode(errors="replace")
        said = problems.decode(errors="replace").strip().rpartition("\n")[2]
    raise StudioRunnerError(
        f"The packages of {python.parent.parent} could not be listed: {said}",
        hint="Name the requirements with --requirements FILE instead.",
    )


def _project(path: Path) -> Mapping[str, Any]:
    project = _toml(path).get("project")
    if not isinstance(project, Mapping):
        raise UsageError(
            f"{path} has no [project] table", hint="Name a requirements file with --requirements FILE."
        )
    if "dependencies" in project.get("dynamic", ()):
        raise UsageError(
            f"{path} lists its dependencies as dynamic: they are only known to its build backend",
            hint="Name a requirements file with --requirements FILE.",
        )
    return project


def _toml(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _dependencies(project: Mapping[str, Any], path: Path) -> list[str]:
    return _strings(project.get("dependencies", []), f"project.dependencies of {path}")


def _extra(project: Mapping[str, Any], extra: str, path: Path, above: tuple[str, ...]) -> Iterator[str]:
    groups = {_normal(name): lines for name, lines in project.get("optional-dependencies", {}).items()}
    if _normal(extra) not in groups:
        known = ", ".join(sorted(groups)) or "none"
        raise UsageError(f"{path} has no optional group {extra!r}", hint=f"It has: {known}.")
    for line in _strings(groups[_normal(extra)], f"optional group {extra} of {path}"):
        own = _SELF.fullmatch(line)
        if own and _normal(own["name"]) == _normal(str(project.get("name", ""))):
            for inner in filter(None, (name.strip() for name in own["extras"].split(","))):
                if inner not in above:
                    yield from _extra(project, inner, path, (*above, extra))
        else:
            yield line


def _strings(value: object, what: str) -> list[str]:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise UsageError(f"The {what} are not a list of strings")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _lines_of(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
