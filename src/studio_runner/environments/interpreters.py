"""Which Python interpreters this machine has, and which of them a version prefix means.

Every candidate is asked once, in a process of its own, what it is; the answers are kept on disk by real path,
modification time and size. After that a look-up costs a few `stat` calls.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from studio_runner.environments.files import write_atomically
from studio_runner.errors import EnvironmentFailedError

RECHECK = 1.0
"""Seconds for which what was found is taken to be still so."""

PROBE_TIMEOUT = 10.0
"""Seconds an interpreter has to say what it is."""

SYSTEM = (Path("/usr/local/bin"), Path("/usr/bin"))
"""Looked into whatever PATH says."""

_PROBES_AT_ONCE = 4
_NAME = re.compile(r"(python|pypy)(\d+(\.\d+)*)?t?")
_PROBE = """\
import json, platform, sys, sysconfig
print(json.dumps({
    "version": "%d.%d.%d" % sys.version_info[:3],
    "level": sys.version_info[3],
    "implementation": platform.python_implementation().lower(),
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "platform": sysconfig.get_platform(),
    "abi": sysconfig.get_config_var("SOABI") or "",
    "build": sys.version,
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """One interpreter. `path` is its real path (never inside a virtual environment), `level` `final` for releases,
    `build` its own full version text."""

    path: str
    version: str
    level: str
    implementation: str
    free_threaded: bool
    platform: str
    abi: str
    build: str

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split("."))

    @property
    def regular(self) -> bool:
        """A released build with the usual ABI; others are taken only when nothing else matches."""
        return self.level == "final" and not self.free_threaded

    def matches(self, prefix: tuple[int, ...]) -> bool:
        return self.numbers[: len(prefix)] == prefix

    def __str__(self) -> str:
        kind = "python" if self.implementation == "cpython" else self.implementation
        level = "" if self.level == "final" else f" ({self.level})"
        return f"{kind} {self.version}{level}{' free-threaded' if self.free_threaded else ''}"


@dataclass(frozen=True)
class _Search:
    """What one look at the directories found; it holds while their modification times are `seen`."""

    seen: tuple[tuple[Path, int], ...]
    candidates: tuple[str, ...]
    answers: dict[str, Interpreter | None]
    """By candidate, of those that were asked."""


class Interpreters:
    """The interpreters of this machine. `environ` is the runner's environment, `store` the file that remembers."""

    def __init__(
        self,
        store: Path,
        environ: Mapping[str, str],
        *,
        probe_timeout: float = PROBE_TIMEOUT,
        recheck: float = RECHECK,
    ) -> None:
        self._store = store
        self._environ = environ
        self._timeout = probe_timeout
        self._search: _Search | None = None
        self._recheck, self._look_after = recheck, 0.0
        self._lock = asyncio.Lock()

    async def find(self, prefix: str) -> Interpreter:
        """The newest interpreter whose version starts with `prefix` (`"3"`, `"3.8"`, `"2.7.18"`; `""`: any
        Python 3). EnvironmentFailedError lists what there is."""
        wanted = _numbers(prefix or "3")
        matching = [one for one in await self._answers(wanted) if one.matches(wanted)]
        if not matching:
            raise _missing(prefix, await self.all())
        return max(matching, key=_preference)

    async def all(self) -> tuple[Interpreter, ...]:
        """Every interpreter, in the order of the search."""
        return await self._answers(())

    async def _answers(self, wanted: tuple[int, ...]) -> tuple[Interpreter, ...]:
        """Interpreters among the candidates whose name does not rule out the version."""
        async with self._lock:
            search = self._search
            if search is None or self._has_changed(search):
                search = self._search = self._look()
            candidates = [path for path in search.candidates if _may_be(path, wanted)]
            unasked = [path for path in candidates if path not in search.answers]
            if unasked:
                search.answers.update(await self._ask(unasked))
            return tuple(one for path in candidates if (one := search.answers[path]) is not None)

    def _has_changed(self, search: _Search) -> bool:
        """Looked at anew only now and then: it costs more than all the rest of a warm look-up."""
        now = time.monotonic()
        if now < self._look_after:
            return False
        self._look_after = now + self._recheck
        return _times(path for path, _ in search.seen) != search.seen

    def _look(self) -> _Search:
        folders = tuple(dict.fromkeys(_folders(self._environ)))
        return _Search(_times(folders), tuple(dict.fromkeys(_candidates(folders))), {})

    async def _ask(self, candidates: list[str]) -> dict[str, Interpreter | None]:
        """Whatever is known from before is not asked again."""
        known = self._remembered()
        identities = {path: _identity(path) for path in candidates}
        answers: dict[str, Interpreter | None] = {path: known.get(identities[path]) for path in candidates}
        gate = asyncio.Semaphore(_PROBES_AT_ONCE)

        async def ask(path: str) -> None:
            async with gate:
                answers[path] = await probe(path, self._timeout)

        unknown = [path for path, answer in answers.items() if answer is None]
        async with asyncio.TaskGroup() as group:
            for path in unknown:
                group.create_task(ask(path), name=f"probe {path}")
        fresh = {identities[path]: found for path in unknown if (found := answers[path]) is not None}
        if fresh:
            self._remember(known | fresh)
        return answers

    def _remembered(self) -> dict[str, Interpreter]:
        try:
            stored = json.loads(self._store.read_text())
            return {identity: Interpreter(**facts) for identity, facts in stored.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}  # a damaged or older file costs asking again, nothing else

    def _remember(self, known: Mapping[str, Interpreter]) -> None:
        self._store.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._store, json.dumps({key: asdict(one) for key, one in known.items()}, indent=1))


async def probe(path: str, limit: float = PROBE_TIMEOUT) -> Interpreter | None:
    """Ask the program at `path` what it is; None when it does not answer so within `limit` seconds."""
    try:
        process = await asyncio.create_subprocess_exec(
            *(path, "-E", "-s", "-S", "-c", _PROBE),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={"PATH": os.defpath, "LC_ALL": "C"},
            start_new_session=True,
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(limit):
            answer, _ = await process.communicate()
        return Interpreter(path=path, **json.loads(answer)) if process.returncode == 0 else None
    except (TimeoutError, ValueError, TypeError):
        return None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def _preference(one: Interpreter) -> tuple[bool, bool, tuple[int, ...], bool]:
    return one.regular, one.implementation == "cpython", one.numbers, not one.free_threaded


def _numbers(prefix: str) -> tuple[int, ...]:
    parts = prefix.strip().split(".")
    if not all(part.isdecimal() for part in parts):
        raise EnvironmentFailedError(f"'{prefix}' is not a Python version", hint='Ask for "3", "3.8" or "3.8.18".')
    return tuple(int(part) for part in parts)


def _missing(prefix: str, found: Iterable[Interpreter]) -> EnvironmentFailedError:
    ordered = sorted({one.numbers: str(one) for one in found}.items(), reverse=True)
    there = ", ".join(text for _, text in ordered) or "none"
    version = prefix or "3"
    return EnvironmentFailedError(
        f"No Python {version} on this machine; there is: {there}",
        hint=f"Install one on the runner's machine, for example with `uv python install {version}` or "
        f"`pyenv install {version}` (the runner never downloads an interpreter by itself), or change the "
        "experiment's pythonver.",
    )


def _times(folders: Iterable[Path]) -> tuple[tuple[Path, int], ...]:
    return tuple((folder, _modified(folder)) for folder in folders)


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _identity(path: str) -> str:
    """Changes when another program is put there."""
    try:
        status = Path(path).stat()
    except OSError:
        return path
    return f"{path}:{status.st_mtime_ns}:{status.st_size}"


def _may_be(path: str, wanted: tuple[int, ...]) -> bool:
    """False when the program's name says another version (`python3.8` for 3.11)."""
    named = _NAME.fullmatch(os.path.basename(path))  # noqa: PTH119 (warm path)
    numbers = tuple(int(part) for part in (named.group(2) or "").split(".") if part) if named else ()
    return all(mine == theirs for mine, theirs in zip(numbers, wanted, strict=False))


def _folders(environ: Mapping[str, str]) -> Iterator[Path]:
    """Directories that may hold interpreters, those a person would expect to win first."""
    home = Path(environ.get("HOME") or Path.home())
    for entry in environ.get("PATH", os.defpath).split(os.pathsep):
        # Version managers put a shim for every version here; it answers for whichever is selected, or not at all.
        if entry and Path(entry).name != "shims":
            yield Path(entry)
    yield Path(sys.base_prefix) / "bin"
    pyenv = Path(environ.get("PYENV_ROOT") or home / ".pyenv") / "versions"
    managed = environ.get("UV_PYTHON_INSTALL_DIR")
    data = Path(environ.get("XDG_DATA_HOME") or home / ".local/share")
    for parent in (pyenv, Path(managed) if managed else data / "uv/python"):
        yield parent
        yield from (child / "bin" for child in _children(parent))
    yield from (*SYSTEM, home / ".local/bin")
    yield from (prefix / "bin" for prefix in _conda(home, environ))


def _children(parent: Path) -> list[Path]:
    try:
        return sorted((child for child in parent.iterdir() if child.is_dir()), reverse=True)
    except OSError:
        return []


def _conda(home: Path, environ: Mapping[str, str]) -> Iterator[Path]:
    """Conda's own list of its environments, and the one that is active."""
    if active := environ.get("CONDA_PREFIX"):
        yield Path(active)
    with contextlib.suppress(OSError):
        yield from (Path(line) for line in (home / ".conda/environments.txt").read_text().splitlines() if line)


def _candidates(folders: Iterable[Path]) -> Iterator[str]:
    """Real paths of the programs named like interpreters; those of virtual environments lead to their base."""
    for folder in folders:
        try:
            names = sorted(name for name in os.listdir(folder) if _NAME.fullmatch(name))  # noqa: PTH208 (large)
        except OSError:
            continue
        for name in names:
            real = os.path.realpath(folder / name)
            if not _belongs_to_virtualenv(Path(real)) and os.access(real, os.X_OK):
                yield real


def _belongs_to_virtualenv(real: Path) -> bool:
    """True for the copied interpreter of a virtual environment (a linked one has its base as real path)."""
    prefix = real.parent.parent
    return (prefix / "pyvenv.cfg").exists() or (prefix / "lib" / real.name / "orig-prefix.txt").exists()
