"""The embedded default as a site: directories as queues, files as the store."""

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from faults.experiment import Addresses
from faults.site import Server
from servers.proxy import Proxy
from studio_runner.queues.layout import REASON_SUFFIX, RootPlace


class FileObjects:
    """The store's files; records are under `db/` there already."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def versions(self) -> Mapping[str, str]:
        found = {}
        for folder in ("experiments", "db/experiments"):
            for directory, _, names in os.walk(self._root / folder):
                for name in names:
                    path = Path(directory, name)
                    try:
                        state = path.stat()
                    except FileNotFoundError:
                        continue
                    found[str(path.relative_to(self._root))] = f"{state.st_ino} {state.st_mtime_ns} {state.st_size}"
        return found

    def read(self, name: str) -> bytes:
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError as error:
            raise KeyError(name) from error

    def write(self, name: str, content: bytes) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


class LocalSite:
    """Everything in directories under `root`."""

    queues: Sequence[str] = ("local_faults_a", "local_faults_b")
    servers: Mapping[str, Server] = {}  # nothing changes it
    links: Mapping[str, Sequence[Proxy]] = {}

    def __init__(self, root: Path) -> None:
        self._queue_root, self._store = root / "queue", root / "store"
        self.objects = FileObjects(self._store)

    def addresses(self) -> Addresses:
        return Addresses(f"file://{self._store}", "", {}, {})

    def options(self, runner: int) -> Sequence[str]:
        del runner  # all share one queue root
        return ("--queue-root", str(self._queue_root), "--store", str(self._store))

    def publish(self, queue: str, body: bytes) -> None:
        incoming = self._queue_root / queue / ".incoming"
        incoming.mkdir(parents=True, exist_ok=True)
        path = incoming / uuid.uuid4().hex
        path.write_bytes(body)
        path.rename(self._queue_root / queue / path.name)

    def remaining(self) -> Iterator[str]:
        for queue in self.queues:
            place = RootPlace(self._queue_root).queue(queue)
            for what, directory in (
                ("waiting", self._queue_root / queue),
                ("claimed", place.claimed),
                ("delayed", place.delayed),
            ):
                if amount := sum(path.is_file() for path in directory.iterdir()) if directory.is_dir() else 0:
                    yield f"{queue}: {amount} {what}"
            for reason in place.dead.glob(f"*{REASON_SUFFIX}"):
                yield f"{queue}: dead letter {reason.read_text()[:300]}"

    def __enter__(self) -> Self:
        for queue in self.queues:
            (self._queue_root / queue).mkdir(parents=True)
        self._store.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
