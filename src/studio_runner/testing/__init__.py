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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from studio_runner.messages.results import Results, parse_results
from studio_runner.process.environ import ATTEMPT_VARIABLE
from studio_runner.queues.layout import REASON_SUFFIX, RootPlace

QUEUE = "local_test"
MUTABLE = ("output", "modeldir", "retval", "tb", "_metrics", "_metadata", "_results", "_status")
RESOURCES = {"cpus": 1, "ram": "200mb", "hdd": "100mb", "gpus": 0}
_T = TypeVar("_T")
THIS_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@dataclass(frozen=True)
class Installation:
    """The directories of one private installation. Several may have one `cache`, where environments are kept."""

    home: Path
    cache: Path

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
        if not path.exists():  # another experiment may be reading it
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
        # Where file systems tell the time in milliseconds, messages of one moment keep the order of their names.
        name = f"{time.time_ns():x}-{uuid.uuid4().hex}"
        (incoming / name).write_bytes(body)
        (incoming / name).rename(directory / name)
        return time.time()

    def submit(
        self, files: Mapping[str, str | bytes], *, config: Mapping[str, Any] | None = None, **experiment: Any
    ) -> str:
        """Queue a request to run `main.py` among these files; its key."""
        key, body = self.request(self.workspace(files), config=config, **experiment)
        self.publish(body)
        return key

    def waiting(self, queue: str = QUEUE) -> list[Path]:
        """The messages that lie on the queue."""
        return _files(self.queue_root / queue)

    def claimed(self, queue: str = QUEUE) -> list[Path]:
        """The messages that are in the hands of a runner."""
        return _files(RootPlace(self.queue_root).queue(queue).claimed)

    def delayed(self, queue: str = QUEUE) -> list[Path]:
        """The messages that wait for their next try."""
        return _files(RootPlace(self.queue_root).queue(queue).delayed)

    def dead_letters(self, queue: str = QUEUE) -> list[dict[str, Any]]:
        """What was set aside: `reason`, `attempts`, `at`, `runner` and the message itself as `body`."""
        dead = RootPlace(self.queue_root).queue(queue).dead
        return [
            {**json.loads(reason.read_bytes()), "body": message.read_bytes()}
            for reason in dead.glob(f"*{REASON_SUFFIX}")
            if (message := reason.with_name(reason.name.removesuffix(REASON_SUFFIX))).exists()
        ]

    def processes(self) -> list[psutil.Process]:
        """The live processes of experiments."""
        mark = str(self.attempts.parent)
        return [
            process
            for process in psutil.process_iter()
            if ATTEMPT_VARIABLE in (variables := _variables(process)) and variables.get("STUDIOML_HOME") == mark
        ]

    def leftovers(self) -> list[str]:
        """What there still is of experiments besides their artifacts and records: nothing when all are over."""
        directories = list(self.attempts.iterdir()) if self.attempts.is_dir() else []
        queues = [path.name for path in self.queue_root.iterdir() if path.is_dir() and path.name[0] != "."]
        messages = [
            path for queue in queues for path in (*self.waiting(queue), *self.claimed(queue), *self.delayed(queue))
        ]
        return [*map(str, directories), *map(str, messages), *map(str, self.processes())]

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

    def ended(self, key: str, patience: float = 120.0) -> dict[str, Any]:
        """The experiment's record, once it says that the experiment is over."""
        return _awaited(lambda: self._final_record(key), patience, lambda: f"{key} is not over; {self._said()}")

    def _final_record(self, key: str) -> dict[str, Any] | None:
        try:
            record = self.record(key)
        except FileNotFoundError:
            return None
        return record if record["status"] in ("finished", "stopped") else None

    def wait(self, key: str, patience: float = 120.0) -> Results:
        """Until the experiment is over; TimeoutError after `patience` seconds."""
        path = self.stored(key, "_results")
        _awaited(path.exists, patience, lambda: f"no results of {key}; {self._said()}")
        return self.results(key)

    def _said(self) -> str:
        return f"the log says:\n{self.log()}"

    def log(self) -> str:
        """What the daemons wrote so far."""
        path = self.home / "daemon.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def environment(self) -> dict[str, str]:
        """The environment that makes `studio-runner` use this installation."""
        return {**os.environ, "STUDIOML_HOME": str(self.home), "XDG_CACHE_HOME": str(self.cache)}

    def start(self, *options: str, program: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """A daemon (or another `program` that takes its options)."""
        command = [*(program or (command_path(), "start")), "--http-address", "", *options]
        with (self.home / "daemon.log").open("ab") as log:
            return subprocess.Popen(command, env=self.environment(), stdout=log, stderr=log, start_new_session=True)

    @contextmanager
    def daemon(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """A daemon that is drained at the end, or killed when that takes more than a minute."""
        process = self.start(*options)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def installation(cache: Path | None = None) -> Iterator[Installation]:
    """A fresh one, removed afterwards; with a `cache` that stays, environments need not be built anew."""
    home = Path(tempfile.mkdtemp(prefix="studio-runner-"))
    place = Installation(home, cache or home / "cache")
    (place.queue_root / QUEUE).mkdir(parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _awaited(look: Callable[[], _T | None], patience: float, complaint: Callable[[], str]) -> _T:
    """What `look` finds, once it finds something; TimeoutError after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {patience:g} s {complaint()}")
        time.sleep(0.002)
    return found


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.is_file()] if directory.is_dir() else []


def _variables(process: psutil.Process) -> dict[str, str]:
    """Nothing of other people's processes and of those that have ended."""
    try:
        return process.environ()
    except psutil.Error:
        return {}


def artifact(path: Path, *, mutable: bool) -> dict[str, Any]:
    """An artifact entry of a request, stored in a file."""
    return {"qualified": f"file://{path}", "key": path.name, "bucket": "", "mutable": mutable, "unpack": True}


def command_path() -> str:
    """The installed command of this interpreter's environment."""
    return str(Path(sys.executable).parent / "studio-runner")
