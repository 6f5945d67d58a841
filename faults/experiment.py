"""The experiments of a run: what each does, what must come of it, its request as existing clients write it."""

import io
import json
import random
import sys
import tarfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.program import train

SCRIPT = Path(train.__file__)
WORKSPACE = "blobstore/workspace.tar"
LABELS = ("modeldir", "output", "retval", "tb", "_metrics", "_metadata")
"""Mutable artifacts of every message; `_results` comes with half of them."""
KINDS = {"quick": 70, "failing": 10, "checkpointed": 10, "large": 6, "long": 4}
"""And their shares."""
CHECKPOINTS = {"checkpointed": "1s", "long": "3s"}
RESOURCES = {"cpus": 1, "gpus": 0, "ram": "200mb", "hdd": "50mb"}
THIS_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@dataclass(frozen=True)
class Experiment:
    """`with_results`: its message names a `_results` artifact; the existing client's messages do not."""

    key: str
    kind: str
    number: int
    queue: str
    with_results: bool

    @property
    def result(self) -> str:
        return train.known_result(self.kind, self.number)

    @property
    def exit_code(self) -> int:
        return train.exit_code(self.kind, self.number)

    @property
    def labels(self) -> tuple[str, ...]:
        return (*LABELS, "_results") if self.with_results else LABELS


def stored(key: str, label: str) -> str:
    """The name of the object that holds an artifact."""
    return f"experiments/{key}/{label}.tar"


def experiments(amount: int, queues: Sequence[str], seed: int) -> Iterator[Experiment]:
    """The same for the same seed; every kind occurs."""
    dice = random.Random(f"experiments {seed}")
    for number in range(amount):
        kind = [*KINDS][number] if number < len(KINDS) else dice.choices([*KINDS], [*KINDS.values()])[0]
        key = f"1700000000_{uuid.UUID(int=dice.getrandbits(128), version=4)}"
        yield Experiment(key, kind, dice.randrange(10_000), dice.choice(queues), with_results=number % 2 == 0)


def workspace() -> bytes:
    """The archive of the script."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(SCRIPT, SCRIPT.name)
    return buffer.getvalue()


@dataclass(frozen=True)
class Addresses:
    """Where artifacts are stored (`qualified` is the address before an object's name), and what the message says of
    store and database."""

    qualified: str
    bucket: str
    credentials: Mapping[str, Any]
    config: Mapping[str, Any]

    def artifact(self, name: str, *, mutable: bool) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "unpack": True,
            "mutable": mutable,
            "key": name,
            "qualified": f"{self.qualified}/{name}",
            "bucket": self.bucket,
        }
        return entry | ({"credentials": self.credentials} if self.credentials else {})


def request(experiment: Experiment, addresses: Addresses, log: Path) -> bytes:
    """Its message; `log` is the file that its executions tell of themselves in."""
    artifacts = {
        label: addresses.artifact(stored(experiment.key, label), mutable=True) for label in experiment.labels
    }
    artifacts["workspace"] = addresses.artifact(WORKSPACE, mutable=False)
    document = {
        "key": experiment.key,
        "filename": SCRIPT.name,
        "args": [experiment.kind, str(experiment.number)],
        "pythonver": THIS_PYTHON,
        "pythonenv": [],
        "resources_needed": RESOURCES,
        "status": "waiting",
        "time_added": time.time(),
        "max_duration": "20m",
        "owner": "guest",
        "project": None,
        "metric": None,
        "artifacts": artifacts,
    }
    config = {
        **addresses.config,
        "experimentLifetime": "4h",
        "saveWorkspaceFrequency": CHECKPOINTS.get(experiment.kind, "3m"),
        "env": {"FAULTS_LOG": str(log), "FAULTS_KEY": experiment.key},
    }
    return json.dumps({"experiment": document, "config": config}).encode()
