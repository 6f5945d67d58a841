"""The runners of the cluster, each a daemon that is started again whenever it ends, as a service manager would."""

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from studio_runner.process.environ import ATTEMPT_VARIABLE
from studio_runner.testing import command_path

AGAIN = 0.5
START_SECONDS = 120.0
SERVING = b"serving queue"
DRAIN_SECONDS = 90.0
ADDRESS_SPACE = 3 << 30


@dataclass(frozen=True)
class Place:
    """Directories of one runner: `home` is its StudioML home, `working` where it runs experiments."""

    home: Path
    working: Path
    cache: Path

    def environment(self) -> dict[str, str]:
        unwanted = ("AWS_", "STUDIO", "AMQP", "SQS")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
        return kept | {"STUDIOML_HOME": str(self.home), "XDG_CACHE_HOME": str(self.cache)}


@dataclass
class Runner:
    """One runner. `down` while the storm wants it to stay away."""

    name: str
    place: Place
    options: Sequence[str]
    down: bool = False
    unexpected: list[str] = field(default_factory=list)
    """How it ended when nobody had asked it to."""
    _process: subprocess.Popen[bytes] | None = None
    _log_before: int = 0

    @property
    def log(self) -> Path:
        return self.place.home / "log"

    def start(self) -> None:
        self.place.home.mkdir(parents=True, exist_ok=True)
        self.place.working.mkdir(parents=True, exist_ok=True)
        command = [command_path(), "start", "--working-dir", str(self.place.working), *self.options]
        with self.log.open("ab") as log:
            self._log_before = log.tell()
            self._process = subprocess.Popen(
                command,
                env=self.place.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        # A runner that goes wild shall end with a traceback, not take the machine with it.
        if sys.platform == "linux":
            resource.prlimit(self._process.pid, resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))

    async def serving(self) -> None:
        """Return once it takes messages, and has cleared up after its predecessor."""
        async with asyncio.timeout(START_SECONDS):
            while SERVING not in self.log.read_bytes()[self._log_before :]:
                await asyncio.sleep(AGAIN)

    def signal(self, number: signal.Signals) -> None:
        """To the daemon alone, not to what it started."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    async def kill(self) -> None:
        self.down = True
        self.signal(signal.SIGKILL)
        await self.ended()

    async def ended(self) -> None:
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)

    async def drain(self, *, patience: float = DRAIN_SECONDS) -> None:
        """Ask it to end; killed when it does not."""
        self.down = True
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(patience):
                await self.ended()
        except TimeoutError:
            self.unexpected.append(f"did not end within {patience:g} s of SIGTERM")
            await self.kill()

    def rise(self) -> None:
        """Back after the storm had it down."""
        if self.down:
            self.down = False
            self.start()

    async def keep(self) -> None:
        """Start it again, for ever, when it ends without having been told to."""
        while True:
            await asyncio.sleep(AGAIN)
            if not self.down and self._process is not None and (code := self._process.poll()) is not None:
                self.unexpected.append(f"ended by itself with {code}: {self.last_line()}")
                self.start()

    def last_line(self) -> str:
        return (self.log.read_text(errors="replace").splitlines() or [""])[-1][:200]


def scripts(under: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Processes that run the script of an experiment of the runners under `under`, with its key."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            variables = process.environ()
            key = variables.get("FAULTS_KEY")
            if key and variables["STUDIOML_HOME"].startswith(str(under)) and "train.py" in process.cmdline():
                yield key, process


def stragglers(under: Path) -> list[psutil.Process]:
    """Whatever still runs of any attempt."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            variables: Mapping[str, str] = process.environ()
            if ATTEMPT_VARIABLE in variables and variables.get("STUDIOML_HOME", "").startswith(str(under)):
                found.append(process)
    return found
