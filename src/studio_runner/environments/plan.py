"""From what a request asks for to what exactly is built: interpreter, lines, indexes, and the key of it all."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from studio_runner.environments.base import EnvironmentSpec
from studio_runner.environments.cache import FORMAT
from studio_runner.environments.indexes import Indexes, IndexReader
from studio_runner.environments.interpreters import Interpreter, Interpreters
from studio_runner.environments.requirements import RequirementSet, Target, read_requirements, requirement_name

SETUPTOOLS = "setuptools<81"
"""The last ones with `pkg_resources`."""

_REMEMBERED = 256


@dataclass(frozen=True)
class Plan:
    """Everything that decides what an environment is; `key` is a hash of it (credentials go in and cannot come
    out)."""

    key: str
    interpreter: Interpreter
    requirements: RequirementSet
    extra: RequirementSet
    indexes: Indexes
    notes: tuple[str, ...]
    files: tuple[tuple[Path, int, int], ...]
    """What is installed from this machine's own disk, with modification time and size."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values to mask, longest first, so that one that contains another is masked whole."""
        return tuple(sorted(self.requirements.secrets | self.extra.secrets, key=len, reverse=True))


@dataclass(frozen=True)
class _Question:
    """What a plan was made for; the same question has the same plan."""

    python: str
    lines: tuple[tuple[str, ...], tuple[str, ...]]
    variables: tuple[tuple[str, str], ...]
    gpus: bool
    interpreter: Interpreter


class Planner:
    """Makes plans, and remembers them: a warm look-up parses nothing."""

    def __init__(self, interpreters: Interpreters, indexes: IndexReader) -> None:
        self._interpreters = interpreters
        self._indexes = indexes
        self._plans: OrderedDict[_Question, tuple[Indexes, Plan]] = OrderedDict()

    async def plan(self, spec: EnvironmentSpec) -> Plan:
        interpreter = await self._interpreters.find(spec.python)
        indexes = self._indexes.read()
        question = _Question(
            spec.python,
            (spec.requirements, spec.extra),
            tuple(spec.variables.items()),
            spec.gpus,
            interpreter,
        )
        known = self._plans.get(question)
        if known is not None and known[0] is indexes and known[1].files == tuple(_states(known[1].files)):
            self._plans.move_to_end(question)
            return known[1]
        made = make_plan(spec, interpreter, indexes)
        self._plans[question] = indexes, made
        if len(self._plans) > _REMEMBERED:
            self._plans.popitem(last=False)
        return made


def make_plan(spec: EnvironmentSpec, interpreter: Interpreter, indexes: Indexes) -> Plan:
    target = Target(interpreter.numbers, spec.gpus)
    requirements = _with_setuptools(read_requirements(spec.requirements, spec.variables, target), interpreter)
    extra = read_requirements(spec.extra, spec.variables, target)
    notes = list(requirements.notes + extra.notes)
    for part in (requirements, extra):
        indexes, refused = indexes.with_request(part.sources, part.choices)
        notes += refused
    files = tuple(_states((path, 0, 0) for path in _paths(requirements.lines + extra.lines)))
    plan = Plan("", interpreter, requirements, extra, indexes, tuple(notes), files)
    return replace(plan, key=_key(plan))


def _with_setuptools(requirements: RequirementSet, interpreter: Interpreter) -> RequirementSet:
    """With the setuptools that Python up to 3.11 puts into its virtual environments: older packages import
    `pkg_resources` without saying that they need it, and `pip freeze` does not list it."""
    names = {requirement_name(line) for line in requirements.lines}
    if not names or not (3, 6) <= interpreter.numbers < (3, 12):
        return requirements
    own = _bundled(interpreter) or SETUPTOOLS
    lines = requirements.lines if "setuptools" in names else (*requirements.lines, own)
    return replace(requirements, lines=lines, setuptools=own)


def _bundled(interpreter: Interpreter) -> str | None:
    """The wheel that comes with the interpreter; distributions leave it out."""
    major, minor, _ = interpreter.numbers
    folder = Path(interpreter.path).parent.parent / f"lib/python{major}.{minor}/ensurepip/_bundled"
    wheel = next(folder.glob("setuptools-*.whl"), None)
    return None if wheel is None else f"setuptools @ {wheel.as_uri()}"


def _key(plan: Plan) -> str:
    """Readable start, then 96 bits of the hash."""
    interpreter = plan.interpreter
    facts = {
        "format": FORMAT,
        "interpreter": asdict(interpreter),
        "requirements": sorted(plan.requirements.lines),
        "extra": sorted(plan.extra.lines),
        "setuptools": plan.requirements.setuptools,
        "indexes": plan.indexes.fingerprint(),
        "files": sorted((str(path), *state) for path, *state in plan.files),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"{interpreter.implementation}-{interpreter.version}-{digest[:24]}"


def _states(files: Iterable[tuple[Path, int, int]]) -> Iterator[tuple[Path, int, int]]:
    """Each as it is now; one that is gone has no time."""
    for path, _, _ in files:
        try:
            status = path.stat()
        except OSError:
            yield path, 0, 0
        else:
            yield path, status.st_mtime_ns, status.st_size


def _paths(lines: Iterable[str]) -> Iterator[Path]:
    for line in lines:
        if "file:" in line or line.startswith("/"):
            place = line.partition("@ ")[2] or line
            yield Path(unquote(urlsplit(place.split(";")[0].strip()).path))
