"""A runner of one's own to measure: a private home, messages as existing clients write them, a real daemon."""

import io
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RUNNER = str(Path(sys.executable).parent / "studio-runner")
QUEUE = "local_bench"
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"

MARK = "import time; print(repr(time.time()))\n"
"""A script whose first line says when it ran."""


@dataclass(frozen=True)
class Rig:
    """Directories of one private installation."""

    home: Path

    @property
    def queue(self) -> Path:
        return self.home / "queue" / QUEUE

    @property
    def store(self) -> Path:
        return self.home / "store"

    def workspace(self, name: str, script: str) -> Path:
        """A workspace archive that holds `main.py`."""
        path = self.store / "blobstore" / f"{name}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            member = tarfile.TarInfo("main.py")
            member.size = len(script.encode())
            archive.addfile(member, io.BytesIO(script.encode()))
        return path

    def message(self, workspace: Path, pythonenv: Sequence[str] = ()) -> tuple[str, bytes]:
        """A key and its request, with the artifacts that the existing client names, and `_results`."""
        key = f"{int(time.time())}_{uuid.uuid4()}"
        place = self.store / "experiments" / key
        mutable = ("output", "modeldir", "retval", "tb", "_metrics", "_metadata", "_results")
        artifacts = {label: _artifact(place / f"{label}.tar", mutable=True) for label in mutable}
        artifacts["workspace"] = _artifact(workspace, mutable=False)
        experiment = {
            "key": key,
            "filename": "main.py",
            "args": [],
            "pythonver": VERSION,
            "pythonenv": list(pythonenv),
            "resources_needed": {"cpus": 1, "ram": "200mb", "hdd": "100mb", "gpus": 0},
            "status": "waiting",
            "time_added": time.time(),
            "max_duration": "20m",
            "owner": "guest",
            "artifacts": artifacts,
        }
        config = {"experimentLifetime": "4h", "saveWorkspaceFrequency": "3m", "env": {}}
        return key, json.dumps({"experiment": experiment, "config": config}).encode()

    def publish(self, body: bytes) -> float:
        """Put the message on the queue; the time at which it landed."""
        incoming = self.queue / ".bench"
        incoming.mkdir(parents=True, exist_ok=True)
        name = uuid.uuid4().hex
        (incoming / name).write_bytes(body)
        (incoming / name).rename(self.queue / name)
        return time.time()

    def results(self, key: str) -> Path:
        return self.store / "experiments" / key / "_results.tar"

    def output(self, key: str) -> str:
        """The stored output of a finished experiment."""
        with tarfile.open(self.store / "experiments" / key / "output.tar") as archive:
            member = next(member for member in archive if member.name.endswith("output") and member.isfile())
            content = archive.extractfile(member)
            return content.read().decode() if content else ""

    def wait(self, key: str, patience: float = 120.0) -> None:
        """Until the experiment's results are there."""
        path, deadline = self.results(key), time.monotonic() + patience
        while not path.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no results of {key} after {patience:g} s")
            time.sleep(0.002)

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """A daemon on this home."""
        environment = {**os.environ, "STUDIOML_HOME": str(self.home), "XDG_CACHE_HOME": str(self.home / "cache")}
        log = (self.home / "daemon.log").open("ab")
        arguments = [RUNNER, "start", "--http-address", "", *options]
        return subprocess.Popen(arguments, env=environment, stdout=log, stderr=log, start_new_session=True)


@contextmanager
def rig() -> Iterator[Rig]:
    """A fresh one, removed afterwards."""
    home = Path(tempfile.mkdtemp(prefix="studio-runner-bench-"))
    made = Rig(home)
    made.queue.mkdir(parents=True)
    try:
        yield made
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def running(made: Rig, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon that has run one experiment already: its environment is warm."""
    daemon = made.start(*options)
    try:
        key, body = made.message(made.workspace("warm", MARK))
        made.publish(body)
        made.wait(key)
        yield daemon
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(30)


def clean_interpreter(directory: Path) -> str:
    """The interpreter of a virtual environment without anything in it."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True, stdout=subprocess.DEVNULL
    )
    return str(directory / "bin" / "python")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median, maximum and number."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values), "n": len(values)}


def _artifact(path: Path, *, mutable: bool) -> dict[str, object]:
    return {
        "qualified": f"file://{path}",
        "key": str(path.name),
        "bucket": "bench",
        "mutable": mutable,
        "unpack": True,
    }
