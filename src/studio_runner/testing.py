"""For people who test against a runner: a private installation, requests as existing clients write them, a daemon.

    with installation() as place:
        key, body = place.request(place.workspace({"main.py": "print('hello')"}))
        place.publish(body)
        with place.daemon("--limit-tasks", "1") as daemon:
            daemon.wait(60)
        assert place.results(key).ok
        assert place.output(key) == "hello\\n"

Everything is synchronous and touches nothing outside one temporary directory.
"""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio_runner.messages.results import Results, parse_results

QUEUE = "local_test"
MUTABLE = ("output", "modeldir", "retval", "tb", "_metrics", "_metadata", "_results", "_status")
RESOURCES = {"cpus": 1, "ram": "200mb", "hdd": "100mb", "gpus": 0}
THIS_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@dataclass(frozen=True)
class Installation:
    """The directories of one private installation."""

    home: Path

    @property
    def queue_root(self) -> Path:
        return self.home / "queue"

    @property
    def store(self) -> Path:
        return self.home / "store"

    @property
    def attempts(self) -> Path:
        """Where attempts have their directories."""
        return self.home / "runner" / "experiments"

    def workspace(self, files: Mapping[str, str | bytes]) -> Path:
        """An archive of these files, under the name of its hash."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in files.items():
                data = content.encode() if isinstance(content, str) else content
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        path = self.store / "blobstore" / f"{hashlib.sha256(buffer.getvalue()).hexdigest()}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
        return path

    def request(
        self, workspace: Path, *, config: Mapping[str, Any] | None = None, **experiment: Any
    ) -> tuple[str, bytes]:
        """A key and its request, to run `main.py` of the workspace; `experiment` and `config` replace fields."""
        key = f"{int(time.time())}_{uuid.uuid4()}"
        artifacts = {label: artifact(self.stored(key, label), mutable=True) for label in MUTABLE}
        artifacts["workspace"] = artifact(workspace, mutable=False)
        document = {
            "key": key,
            "filename": "main.py",
            "args": [],
            "pythonver": THIS_PYTHON,
            "pythonenv": [],
            "resources_needed": RESOURCES,
            "status": "waiting",
            "time_added": time.time(),
            "max_duration": "20m",
            "owner": "guest",
            "artifacts": artifacts,
            **experiment,
        }
        settings = {"experimentLifetime": "4h", "saveWorkspaceFrequency": "3m", "env": {}, **(config or {})}
        return key, json.dumps({"experiment": document, "config": settings}).encode()

    def publish(self, body: bytes, queue: str = QUEUE) -> float:
        """Put the message on the queue, whole; the Unix time at which it landed."""
        directory = self.queue_root / queue
        incoming = directory / ".incoming"
        incoming.mkdir(parents=True, exist_ok=True)
        name = uuid.uuid4().hex
        (incoming / name).write_bytes(body)
        (incoming / name).rename(directory / name)
        return time.time()

    def waiting(self, queue: str = QUEUE) -> list[Path]:
        """The messages that lie on the queue."""
        return [path for path in (self.queue_root / queue).iterdir() if path.is_file()]

    def stored(self, key: str, label: str) -> Path:
        """Where an artifact of the experiment is kept."""
        return self.store / "experiments" / key / f"{label}.tar"

    def files(self, key: str, label: str) -> dict[str, bytes]:
        """What is in a stored artifact, by name."""
        found = {}
        with tarfile.open(self.stored(key, label)) as archive:
            for member in archive:
                if content := archive.extractfile(member):
                    found[member.name.removeprefix("./")] = content.read()
        return found

    def output(self, key: str) -> str:
        """The stored output."""
        return self.files(key, "output")["output"].decode(errors="replace")

    def results(self, key: str) -> Results:
        """The runner's last word on an experiment that is over."""
        return parse_results(self.files(key, "_results")["_results.json"])

    def record(self, key: str) -> dict[str, Any]:
        """The experiment's record."""
        document: dict[str, Any] = json.loads((self.store / "db" / "experiments" / key).read_bytes())
        return document

    def wait(self, key: str, patience: float = 120.0) -> Results:
        """Until the experiment is over; TimeoutError after `patience` seconds."""
        path, deadline = self.stored(key, "_results"), time.monotonic() + patience
        while not path.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no results of {key} after {patience:g} s; the log says:\n{self.log()}")
            time.sleep(0.002)
        return self.results(key)

    def log(self) -> str:
        """What the daemons wrote so far."""
        path = self.home / "daemon.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def environment(self) -> dict[str, str]:
        """The environment that makes `studio-runner` use this installation."""
        return {**os.environ, "STUDIOML_HOME": str(self.home), "XDG_CACHE_HOME": str(self.home / "cache")}

    def start(self, *options: str, program: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """A daemon (or another `program` that takes its options)."""
        command = [*(program or (command_path(), "start")), "--http-address", "", *options]
        with (self.home / "daemon.log").open("ab") as log:
            return subprocess.Popen(command, env=self.environment(), stdout=log, stderr=log, start_new_session=True)

    @contextmanager
    def daemon(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """A daemon that is drained at the end, or killed when that takes more than half a minute."""
        process = self.start(*options)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def installation() -> Iterator[Installation]:
    """A fresh one, removed afterwards."""
    home = Path(tempfile.mkdtemp(prefix="studio-runner-"))
    place = Installation(home)
    (place.queue_root / QUEUE).mkdir(parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(home, ignore_errors=True)


def artifact(path: Path, *, mutable: bool) -> dict[str, Any]:
    """An artifact entry of a request, stored in a file."""
    return {"qualified": f"file://{path}", "key": path.name, "bucket": "", "mutable": mutable, "unpack": True}


def command_path() -> str:
    """The installed command of this interpreter's environment."""
    return str(Path(sys.executable).parent / "studio-runner")
