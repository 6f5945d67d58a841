"""A private RabbitMQ node: own ports, directories and epmd, loopback only, as root or as an ordinary user."""

import base64
import os
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from servers.process import Server, ServerProcess, answers, free_ports, program

READY_SECONDS = 90.0
PLACES = (Path("/usr/lib/rabbitmq/bin"),)
"""Debian's own program: the one in /usr/sbin changes to the user `rabbitmq` and its one node."""
HINT = "run scripts/install-test-servers, or install the package rabbitmq-server (3.8 or newer)"
GREETING = b"AMQP\0\0\x09\x01"
ONE_THREAD = "+S 1:1 +sbwt none +A 8"
USER = "guest"


class RabbitMQ(Server):
    """Starts when entered (8 to 23 seconds), or with `launch` and later `wait`; ends and is forgotten when left.

    `conf` are further lines of rabbitmq.conf, `advanced` is a whole advanced.config (Erlang terms).
    """

    def __init__(self, *, management: bool = True, conf: str = "", advanced: str = "") -> None:
        server = installed()
        self.port, distribution, epmd, console = free_ports(4)
        self.management_port = console if management else None
        self._directory = Path(tempfile.mkdtemp(prefix="rabbitmq-"))
        self._write_configuration(conf, advanced)
        env = self._environment(distribution, epmd)
        (self._directory / "epmd").mkdir()
        self._names = ServerProcess(["epmd"], env, self._directory / "epmd")
        self._node = ServerProcess([str(server)], env, self._directory)

    def url(self, vhost: str = "/") -> str:
        return f"amqp://{USER}:{USER}@127.0.0.1:{self.port}/{urllib.parse.quote(vhost, safe='')}"

    @property
    def management_url(self) -> str:
        return f"http://{USER}:{USER}@127.0.0.1:{self.management_port}"

    @property
    def pid(self) -> int | None:
        return self._node.pid

    def launch(self) -> None:
        """Start it without waiting."""
        if not self._names.running:
            self._names.start()
        self._node.start()

    def wait(self) -> None:
        """Return once it takes connections."""
        self._node.wait_until(self._ready, READY_SECONDS)

    def start(self) -> None:
        """Start it, again perhaps, on the same ports and data."""
        self.launch()
        self.wait()

    def stop(self, *, hard: bool = False) -> None:
        """`hard`: killed, as by a power cut. What it has on disk is there at the next `start`."""
        if hard:
            self._node.kill()
        else:
            self._node.stop()

    def close(self) -> None:
        self._node.stop()
        self._names.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def add_vhost(self, name: str) -> None:
        self.manage("PUT", f"/api/vhosts/{_quoted(name)}", b"{}")
        everything = b'{"configure": ".*", "write": ".*", "read": ".*"}'
        self.manage("PUT", f"/api/permissions/{_quoted(name)}/{USER}", everything)

    def remove_vhost(self, name: str) -> None:
        self.manage("DELETE", f"/api/vhosts/{_quoted(name)}")

    def manage(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """One request to the management API, such as `GET /api/queues`; what it answered."""
        address = f"http://127.0.0.1:{self.management_port}{path}"
        request = urllib.request.Request(address, data=body, method=method)
        word = base64.b64encode(f"{USER}:{USER}".encode()).decode()
        request.add_header("Authorization", f"Basic {word}")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())

    def _ready(self) -> bool:
        if not answers(self.port, says=GREETING):
            return False
        if self.management_port is None:
            return True
        try:
            return bool(self.manage("GET", "/api/overview"))
        except (OSError, urllib.error.URLError):
            return False

    def _write_configuration(self, conf: str, advanced: str) -> None:
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            "loopback_users = none",
            "log.console = true",
            "log.console.level = warning",
            "log.file = false",
        ]
        if self.management_port:
            lines += ["management.tcp.ip = 127.0.0.1", f"management.tcp.port = {self.management_port}"]
        (self._directory / "rabbitmq.conf").write_text("\n".join([*lines, conf]) + "\n")
        if advanced:
            (self._directory / "advanced.config").write_text(advanced)
        plugins = "[rabbitmq_management]." if self.management_port else "[]."
        (self._directory / "plugins").write_text(plugins + "\n")

    def _environment(self, distribution: int, epmd: int) -> dict[str, str]:
        here = self._directory
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(here),
            "LANG": "C.UTF-8",
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(here / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(here / "advanced.config"),
            "RABBITMQ_NODENAME": f"rmq{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(here / "mnesia"),
            "RABBITMQ_LOG_BASE": str(here / "logs"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "plugins"),
            "RABBITMQ_PID_FILE": str(here / "pid"),
            "RABBITMQ_DIST_PORT": str(distribution),
            "ERL_EPMD_PORT": str(epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{ONE_THREAD} -kernel inet_dist_use_interface {{127,0,0,1}}",
        }


def installed() -> Path:
    """Its program; MissingServerError."""
    return program("rabbitmq-server", *PLACES, hint=HINT)


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")
