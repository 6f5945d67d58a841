"""One server process and all it starts, in a process group of its own."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

STOP_SECONDS = 20.0
LISTENERS = (12_000, 32_000)


class MissingServerError(RuntimeError):
    """The server's program is not installed."""


class ServerFailedError(RuntimeError):
    """The server ended, or was not ready in time; its last words follow."""


def free_ports(number: int) -> tuple[int, ...]:
    """Ports of loopback that nobody listens on, all different.

    Below those that systems give to outgoing connections: while a server is down, a connection that is tried to
    its port could otherwise come from that very port, and keep the server from listening there again.
    """
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        while len(found) < number:
            one = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", random.randrange(*LISTENERS)))
                found.append(one.getsockname()[1])
        return tuple(found)


def program(name: str, *places: Path, hint: str) -> Path:
    """Where a server's program is: in `places`, beside this interpreter, or on the path."""
    for place in (*places, Path(sys.executable).parent):
        if os.access(place / name, os.X_OK):
            return place / name
    if found := shutil.which(name):
        return Path(found)
    raise MissingServerError(f"{name} is not installed: {hint}")


def answers(port: int, *, says: bytes = b"") -> bool:
    """Whether somebody takes connections on `port`, and answers to `says` when that is given."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            if not says:
                return True
            connection.settimeout(5)
            connection.sendall(says)
            return bool(connection.recv(1))
    except OSError:
        return False


class ServerProcess:
    """Started by `start`, ended by `stop` or `kill`; the same command can be started again."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], directory: Path) -> None:
        self._command = list(command)
        self._env = dict(env)
        self._directory = directory
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._env,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Return once `ready()`; ServerFailedError when the process ends first or takes longer."""
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.running:
                raise ServerFailedError(f"{self._command[0]} ended:\n{self.last_words()}")
            if time.monotonic() > deadline:
                raise ServerFailedError(f"{self._command[0]} was not ready in {seconds:g} s:\n{self.last_words()}")
            time.sleep(0.05)

    def last_words(self) -> str:
        return self._log.read_text(errors="replace")[-3000:] if self._log.exists() else ""

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for what does not listen to it."""
        self._signal(signal.SIGTERM)
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """SIGKILL for the whole group; nothing of it is left when this returns."""
        self._signal(signal.SIGKILL)
        if self._process is None:
            return
        self._process.wait()
        while self._signal(signal.SIGKILL):
            time.sleep(0.005)
        self._process = None

    def _signal(self, number: signal.Signals) -> bool:
        """Whether there was still somebody to signal."""
        if self._process is None:
            return False
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return False
        return True


class Server(ABC):
    """What is started when it is entered and closed when it is left."""

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """End it, and remove what it kept."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
