"""What became of the experiments: which are lost, duplicated, torn or wrong, and how often each was executed."""

import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.experiment import Experiment, stored
from faults.program import train
from faults.site import Objects
from faults.watch import GONE, Watch, read_results, record_name
from faults.watch import members as members_of

KILLED = 9


@dataclass(frozen=True)
class Executions:
    """What the script said of itself, in the log that the storm does not touch."""

    started: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()
    resumed: int = 0

    @classmethod
    def of(cls, log: Path) -> "Executions":
        if not log.exists():
            return cls()
        lines = [line.split() for line in log.read_text().splitlines()]
        return cls(
            tuple(line[1] for line in lines if line[0] == "start"),
            tuple(line[1] for line in lines if line[0] == "end"),
            sum(line[0] == "resume" for line in lines),
        )


@dataclass
class Verdict:
    """What is wrong with one experiment: each list says it in sentences, and is empty when nothing is."""

    experiment: Experiment
    executions: Executions
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def faults(self) -> Mapping[str, list[str]]:
        found = {"lost": self.lost, "duplicated": self.duplicated, "torn": self.torn, "wrong": self.wrong}
        return {name: said for name, said in found.items() if said}


class Audit:
    """Judges experiments by what is stored when all is quiet."""

    def __init__(self, objects: Objects, watch: Watch, logs: Path, killed: Iterable[str]) -> None:
        self._objects, self._watch, self._logs, self._killed = objects, watch, logs, frozenset(killed)

    def judge(self, experiment: Experiment) -> Verdict:
        verdict = Verdict(experiment, Executions.of(self._logs / experiment.key))
        self._judge_ends(verdict)
        if not verdict.lost:
            self._judge_files(verdict, self._how_it_ended(verdict))
        return verdict

    def _judge_ends(self, verdict: Verdict) -> None:
        experiment = verdict.experiment
        ends = self._watch.ends.get(experiment.key, {})
        wanted = [record_name(experiment.key)]
        wanted += [stored(experiment.key, "_results")] if experiment.with_results else []
        for name in wanted:
            seen = ends.get(name, [])
            if not seen or seen[-1].said == GONE:
                verdict.lost.append(f"{name} has no final word ({self._found(name)})")
            if len(seen) > 1:
                verdict.duplicated.append(f"{name} said " + ", then ".join(end.said for end in seen))

    def _found(self, name: str) -> str:
        try:
            return self._objects.read(name)[-300:].decode(errors="replace")
        except KeyError:
            return "it does not exist"

    def _how_it_ended(self, verdict: Verdict) -> str:
        """Compares what results and record say with what is known; the token of the execution they stand for is not
        in them, so the files must tell."""
        experiment = verdict.experiment
        own: Mapping[str, Any] = json.loads(self._objects.read(record_name(experiment.key)))["studio_runner"]
        said = {"the record": own}
        if experiment.with_results:
            said["_results"] = read_results(self._objects.read(stored(experiment.key, "_results")))
        expected = ("script_failed", experiment.exit_code) if experiment.exit_code else ("completed", 0)
        for who, document in said.items():
            found = (document.get("reason"), document.get("exit_code"))
            if self._was_killed(experiment, document):
                continue
            if found != expected:
                verdict.wrong.append(f"{who} says {found}, not {expected}: {document.get('sentence')}")
        return "killed" if self._was_killed(experiment, own) else "as known"

    def _was_killed(self, experiment: Experiment, document: Mapping[str, Any]) -> bool:
        by_signal = document.get("reason") == "script_failed" and document.get("signal") == KILLED
        return experiment.key in self._killed and by_signal

    def _judge_files(self, verdict: Verdict, how: str) -> None:
        experiment, tokens = verdict.experiment, {}
        for label in ("output", "modeldir", "retval"):
            try:
                files = members_of(self._objects.read(stored(experiment.key, label)))
            except KeyError:
                files = {}
            except (tarfile.TarError, EOFError) as error:
                verdict.torn.append(f"{label} cannot be read: {error}")
                continue
            if how == "as known":
                tokens[label] = self._token(verdict, label, files)
        if len(set(tokens.values())) > 1:
            verdict.torn.append(f"parts of different executions: {tokens}")
        for token in set(tokens.values()) - {None} - set(verdict.executions.ended):
            verdict.wrong.append(f"the execution {token} did not end")

    def _token(self, verdict: Verdict, label: str, files: Mapping[str, bytes]) -> str | None:
        """The token of the execution that these files are of."""
        experiment = verdict.experiment
        try:
            if label == "output":
                return self._token_of_output(verdict, files["output"].decode(errors="replace"))
            document = json.loads(files["result.json"])
            token = str(document["token"])
            if document["result"] != experiment.result:
                verdict.wrong.append(f"{label} holds {document['result']}, not {experiment.result}")
            if label == "modeldir" and experiment.kind == "large" and files["weights.bin"] != train.payload(token):
                verdict.torn.append("modeldir holds the weights of another execution")
        except (KeyError, ValueError) as error:
            verdict.torn.append(f"{label} is not whole: {error!r} of {sorted(files)}")
            return None
        return token

    def _token_of_output(self, verdict: Verdict, output: str) -> str:
        lines = [line.split() for line in output.splitlines()]
        first = [line[1] for line in lines if line[:1] == ["token"]]
        last = [line[1:] for line in lines if line[:1] == ["result"]]
        if len(first) != 1 or len(last) != 1 or last[0][1:] != first:
            raise ValueError(f"output: {output[-500:]!r}")
        if last[0][0] != verdict.experiment.result:
            verdict.wrong.append(f"output holds {last[0][0]}, not {verdict.experiment.result}")
        return first[0]
