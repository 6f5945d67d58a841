"""Which runners of a queue root are alive.

Each runner touches a file of its own. Another runner is dead when its process is gone (which only a process of the
same boot and PID namespace can tell), or when its file has not changed for a whole lease, measured by the clock of
the one who looks: clocks of other machines and their times of modification are never compared with ours.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from studio_runner.process.modes import make_directories, share_file
from studio_runner.queues.complaints import Complaints
from studio_runner.queues.layout import names_in


@dataclass(frozen=True)
class ProcessMark:
    """One process among all there ever were. `boot` is empty where the platform does not tell: then nobody can
    say that the process is gone."""

    host: str
    boot: str
    namespace: str
    pid: int
    start: str

    @classmethod
    def own(cls) -> "ProcessMark":
        pid = os.getpid()
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            namespace = str(Path("/proc/self/ns/pid").readlink())
        except OSError:
            return cls(socket.gethostname(), "", "", pid, "")
        return cls(socket.gethostname(), boot, namespace, pid, _start_of(pid) or "")

    def is_gone(self, here: "ProcessMark") -> bool:
        """True when it is certain, seen from the process `here`, that the process has ended."""
        if not self.boot or (self.boot, self.namespace) != (here.boot, here.namespace):
            return False
        return _start_of(self.pid) != self.start


def _start_of(pid: int) -> str | None:
    """When a process began (clock ticks after boot); None when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


class Heartbeat:
    """This runner's own file."""

    def __init__(self, directory: Path, owner: str, complaints: Complaints) -> None:
        self.owner = owner
        self._file = directory / owner
        self._complaints = complaints

    def start(self) -> None:
        """Make the file (again, when somebody believed us dead and cleaned up)."""
        make_directories(str(self._file.parent))
        unfinished = self._file.with_name(f".{self.owner}")
        with unfinished.open("w") as file:
            share_file(file.fileno(), str(self._file.parent))
            file.write(json.dumps(asdict(ProcessMark.own())))
        unfinished.rename(self._file)

    def beat(self) -> None:
        """A file system that is away for a while is no reason to stop: the claims tell whether we were given up."""
        try:
            try:
                os.utime(self._file)
            except FileNotFoundError:
                self.start()
        except OSError as error:
            self._complaints.once(
                self._file,
                f"heartbeat failed: {error.strerror}",
                "other runners will take over what this one holds unless the file system comes back",
            )
        else:
            self._complaints.settled(self._file)

    def stop(self) -> None:
        """A file that cannot be removed is buried by another runner, a lease later."""
        with suppress(OSError):
            self._file.unlink()


@dataclass
class _Sight:
    """What was seen of one runner, and for how long it has not changed."""

    mark: ProcessMark | None
    beat: tuple[int, int] | None
    looked: float
    unchanged: float = 0.0


class Roster:
    """The other runners, as seen from here."""

    def __init__(
        self, directory: Path, own: str, lease: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._directory = directory
        self._own = own
        self._lease = lease
        self._here = ProcessMark.own()
        self._sights: dict[str, _Sight] = {}

    def dead(self, claimants: Collection[str]) -> set[str]:
        """The owners, among those with a heartbeat file and `claimants`, that are certainly or presumably gone."""
        owners = {name for name in names_in(self._directory) if not name.startswith(".")} | set(claimants)
        owners.discard(self._own)
        self._sights = {owner: self._look(owner) for owner in owners}
        return {owner for owner, sight in self._sights.items() if self._is_dead(sight)}

    def bury(self, owner: str) -> None:
        """Remove the heartbeat file of a dead runner; should it live after all, it makes a new one."""
        (self._directory / owner).unlink(missing_ok=True)

    def _is_dead(self, sight: _Sight) -> bool:
        return sight.unchanged >= self._lease or (sight.mark is not None and sight.mark.is_gone(self._here))

    def _look(self, owner: str) -> _Sight:
        """Time in which this process itself did not run (stopped, or its machine asleep) is not held against
        others: between two looks no more than a third of a lease counts."""
        now = self._clock()
        beat, mark = self._read(owner)
        before = self._sights.get(owner)
        if before is None or before.beat != beat:
            return _Sight(mark, beat, now)
        gone_by = min(now - before.looked, self._lease / 3)
        return _Sight(mark, beat, now, before.unchanged + gone_by)

    def _read(self, owner: str) -> tuple[tuple[int, int] | None, ProcessMark | None]:
        """Opened, not only looked up: that is what makes an NFS client ask its server."""
        try:
            # A pipe in its place keeps nobody waiting.
            descriptor = os.open(
                self._directory / owner, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            )
            try:
                status, content = os.fstat(descriptor), os.read(descriptor, 4096)
            finally:
                os.close(descriptor)
        except OSError:
            return None, None
        return (status.st_ino, status.st_mtime_ns), _parse_mark(content)


def _parse_mark(content: bytes) -> ProcessMark | None:
    """None for what no runner wrote."""
    try:
        mark = ProcessMark(**json.loads(content))
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (mark.host, mark.boot, mark.namespace, mark.start)
    return mark if type(mark.pid) is int and all(isinstance(text, str) for text in texts) else None
