"""Watches from outside how experiments end, and whether an end stays what it was."""

import asyncio
import io
import json
import tarfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from faults.experiment import Experiment, stored
from faults.site import Objects

PERIOD = 1.0
GONE = "removed"


def record_name(key: str) -> str:
    return f"db/experiments/{key}"


@dataclass(frozen=True)
class End:
    """One final end as somebody could have read it at `seen` (Unix time)."""

    seen: float
    what: str
    said: str


class Watch:
    """Every end of every experiment that was ever visible, as far as a look per second can tell."""

    def __init__(self, objects: Objects, experiments: Iterable[Experiment]) -> None:
        self._objects = objects
        self._of: dict[str, Experiment] = {}
        for experiment in experiments:
            self._of[record_name(experiment.key)] = experiment
            if experiment.with_results:
                self._of[stored(experiment.key, "_results")] = experiment
        self._versions: dict[str, str] = {}
        self.ends: dict[str, dict[str, list[End]]] = {}
        """By key and name of the object, those that differ, the first one first."""

    def over(self, experiment: Experiment) -> bool:
        """Everything that tells of its end is there."""
        return len(self.ends.get(experiment.key, {})) == (2 if experiment.with_results else 1)

    async def watch(self) -> None:
        """For ever; a store that is down is looked at again."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(PERIOD)

    def look(self) -> bool:
        """Whether everything could be read."""
        try:
            versions = self._objects.versions()
            for name in self._of:
                if versions.get(name) != self._versions.get(name):
                    self._read(name)
                    self._note_version(name, versions.get(name))
        except OSError:
            return False
        return True

    def _note_version(self, name: str, version: str | None) -> None:
        if version is None:
            self._versions.pop(name, None)
        else:
            self._versions[name] = version

    def _read(self, name: str) -> None:
        try:
            content = self._objects.read(name)
        except KeyError:
            said: str | None = GONE
        else:
            said = said_by_record(content) if name.startswith("db/") else said_by_results(content)
        ends = self.ends.setdefault(self._of[name].key, {}).setdefault(name, [])
        if said is None:
            said = "running again"
        if not ends and said in (GONE, "running again"):
            del self.ends[self._of[name].key][name]
        elif not ends or ends[-1].said != said:
            ends.append(End(time.time(), name.rpartition("/")[2], said))


def said_by_record(content: bytes) -> str | None:
    """How it ended, or None while it has not."""
    document = json.loads(content)
    if document.get("status") not in ("finished", "stopped") or document.get("time_finished") is None:
        return None
    own = document.get("studio_runner", {})
    return ending(own | {"status": document["status"]}, ("status", "reason", "exit_code", "signal"))


def said_by_results(content: bytes) -> str:
    document = read_results(content)
    return ending(document, ("reason", "exit_code", "signal", "attempt", "time_started", "time_finished"))


def ending(document: Mapping[str, Any], names: Iterable[str]) -> str:
    return " ".join(f"{name}={document.get(name)}" for name in names)


def read_results(archive: bytes) -> Mapping[str, Any]:
    document: Mapping[str, Any] = json.loads(members(archive)["_results.json"])
    return document


def members(archive: bytes) -> dict[str, bytes]:
    """The files of an archive by name; tarfile.TarError or EOFError when it is not whole."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if file := tar.extractfile(member):
                found[member.name.removeprefix("./")] = file.read()
    return found
