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
"""The last ones with `pkg_resources`, which older packages import without saying so: until Python 3.12 every
virtual environment had it."""

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
        if known is not None and known[0] is indexes and not any(_local_files(known[1])):
            self._plans.move_to_end(question)
            return known[1]
        made = make_plan(spec, interpreter, indexes)
        self._plans[question] = indexes, made
        if len(self._plans) > _REMEMBERED:
            self._plans.popitem(last=False)
        return made


def make_plan(spec: EnvironmentSpec, interpreter: Interpreter, indexes: Indexes) -> Plan:
    target = Target(interpreter.numbers, spec.gpus)
    requirements = _with_setuptools(read_requirements(spec.requirements, spec.variables, target), target)
    extra = read_requirements(spec.extra, spec.variables, target)
    notes = list(requirements.notes + extra.notes)
    for part in (requirements, extra):
        indexes, refused = indexes.with_request(part.sources, part.choices)
        notes += refused
    plan = Plan("", interpreter, requirements, extra, indexes, tuple(notes))
    return replace(plan, key=_key(plan))


def _with_setuptools(requirements: RequirementSet, target: Target) -> RequirementSet:
    names = {requirement_name(line) for line in requirements.lines}
    if not names or "setuptools" in names or not (3, 6) <= target.version < (3, 12):
        return requirements
    return replace(requirements, lines=(*requirements.lines, SETUPTOOLS))


def _key(plan: Plan) -> str:
    """Readable start, then 96 bits of the hash."""
    interpreter = plan.interpreter
    facts = {
        "format": FORMAT,
        "interpreter": asdict(interpreter),
        "requirements": sorted(plan.requirements.lines),
        "extra": sorted(plan.extra.lines),
        "indexes": plan.indexes.fingerprint(),
        "files": sorted(_local_files(plan)),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"{interpreter.implementation}-{interpreter.version}-{digest[:24]}"


def _local_files(plan: Plan) -> Iterator[tuple[str, int, int]]:
    """Files and directories of this machine that are installed from, with what changes when they do."""
    for path in _paths(plan.requirements.lines + plan.extra.lines):
        try:
            status = path.stat()
        except OSError:
            continue
        yield str(path), status.st_mtime_ns, status.st_size


def _paths(lines: Iterable[str]) -> Iterator[Path]:
    for line in lines:
        if "file:" in line or line.startswith("/"):
            place = line.partition("@ ")[2] or line
            yield Path(unquote(urlsplit(place.split(";")[0].strip()).path))
