"""moto's server for SQS (and whatever else of AWS it knows), on loopback."""

import os
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from servers.process import MissingServerError, Server, ServerProcess, answers, free_ports

READY_SECONDS = 60.0


class MotoSQS(Server):
    """Starts when entered, ends when left; it keeps everything in memory. Any credentials do."""

    access_key = "testing"
    secret_key = "testing"  # noqa: S105  # moto looks at none
    region = "us-east-1"

    def __init__(self) -> None:
        if find_spec("moto") is None:
            raise MissingServerError("moto is not installed: make setup-dev")
        self._directory = Path(tempfile.mkdtemp(prefix="moto-"))
        (self.port,) = free_ports(1)
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        env = {"PATH": os.environ["PATH"], "HOME": str(self._directory), "TMPDIR": str(self._directory)}
        self._process = ServerProcess(command, env, self._directory)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._process.start()
        self._process.wait_until(lambda: answers(self.port), READY_SECONDS)

    def stop(self, *, hard: bool = False) -> None:
        """`hard`: killed. Its queues are gone either way."""
        if hard:
            self._process.kill()
        else:
            self._process.stop()

    def close(self) -> None:
        self._process.kill()
        shutil.rmtree(self._directory, ignore_errors=True)
