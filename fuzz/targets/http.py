"""Requests to the dashboard and the API: each is answered, and none without the token changes anything."""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

from starlette.types import Message

from fuzz.picks import Picks
from fuzz.target import noise
from studio_runner.client.opening import HereOpener
from studio_runner.config.reach import Reach
from studio_runner.errors import NotFoundError
from studio_runner.machine.inventory import Capacity
from studio_runner.messages.masking import Secrets
from studio_runner.reports.prometheus import CacheFigures, Metrics, Standing
from studio_runner.reports.records import Record, Records
from studio_runner.web.api import Api
from studio_runner.web.app import application
from studio_runner.web.catalogue import ExperimentLine, line_of
from studio_runner.web.events import Events
from studio_runner.web.guard import Access
from studio_runner.web.overview import Overview, RunnerLimits, RunnerView

MAX_LEN = 512
WORDS = (
    *(b"/api/v1/experiments/", b"/output", b"/stop", b"/experiments/", b"/static/", b"limit=", b"after=", b"tail="),
    *(b"follow=true", b"Bearer ", b"Basic ", b"localhost", b"%00", b"%2e%2e/", b"\xff", b"999999999999999"),
)
TOKEN = "CanaryNotASecret0123456789"
_METHODS = ("GET", "POST", "HEAD", "DELETE", "OPTIONS")
_PATHS = (
    *("/", "/healthz", "/readyz", "/metrics", "/api/v1/runner", "/api/v1/queues", "/api/v1/experiments"),
    *(
        "/api/v1/experiments/k",
        "/api/v1/experiments/k/output",
        "/api/v1/experiments/k/stop",
        "/api/v1/runner/drain",
    ),
    *("/experiments/k", "/static/app.js", "/api/v1/openapi.json", "/api/v1/events", "/api/v1/experiments/"),
)
_HEADERS = (b"host", b"authorization", b"accept", b"last-event-id", b"range", b"content-length")
_NONE = Capacity(0, 0, 0)
_RECORD = Record("k", {"key": "k", "status": "finished", "project": "\ud800", "args": ["x"], "time_added": 1.0})
_loop = asyncio.new_event_loop()
_place = TemporaryDirectory()


class _Overview:
    """What a runner with one finished experiment knows."""

    def __init__(self) -> None:
        self.drained = False
        secrets = Secrets()
        secrets.learn([TOKEN])  # as the command does with whatever it was given
        settings = SimpleNamespace(experiments=SimpleNamespace(output_limit=1 << 20))
        self.daemon = SimpleNamespace(drain=self._drain, host=SimpleNamespace(secrets=secrets, settings=settings))
        self.records = Records.in_directory(Path(_place.name))

    def _drain(self) -> None:
        self.drained = True

    def runner(self) -> RunnerView:
        limits = RunnerLimits(0, 0.0, 0.0)
        return RunnerView("h", "r", "0", 0.0, 0.0, draining=False, total=_NONE, free=_NONE, limits=limits,
                          running=(), gpus=(), hold=None)  # fmt: skip

    async def queues(self) -> Sequence[object]:
        return ()

    async def experiments(self) -> tuple[ExperimentLine, ...]:
        return (line_of(_RECORD),)

    async def record(self, key: str) -> Record:
        if key == "k":
            return _RECORD
        found = await self.records.read(key)
        if found is None:
            raise NotFoundError(f"There is no experiment {key!r}")
        return found

    def attempt(self, _key: str) -> None:
        """Nothing runs."""

    async def troubles(self) -> list[str]:
        return []

    async def standing(self) -> Standing:
        none = CacheFigures(0, 0, 0)
        return Standing("h", _NONE, _NONE, draining=False, running=(), queues=(), environments=none)


_overview, _events = _Overview(), Events()
_events.close()
_app = application(
    Api(cast("Overview", _overview), _events, Metrics(), HereOpener(Reach(()))),
    Access(frozenset({"localhost"}), private=False, token=TOKEN),
)


def seeds() -> Iterable[bytes]:
    yield from (bytes([method, path, 0]) for method in range(2) for path in range(len(_PATHS)))
    yield b"\x00\x06\x00\x00\x20limit=10&after=k&status=finished\x00"
    yield b"\x00\x08\x00\x00\x12tail=5&follow=true\x00"
    yield b"\x01\x0a\x00\x00\x00\x01\x01\x21Bearer " + TOKEN.encode()
    yield from noise(20, 64)


def check(data: bytes) -> None:
    picks = Picks(data)
    method, path = picks.one(_METHODS), picks.one(_PATHS)
    path += picks.some(40).decode(errors="replace") * picks.one((1, 1, 30))  # as servers decode it
    query = picks.some(60)
    headers = [(b"host", b"localhost")]
    headers += [(picks.one(_HEADERS), picks.some(60)) for _ in range(picks.below(4))]
    _overview.drained = False
    status, body = _loop.run_until_complete(_ask(method, path, query, headers))
    assert 200 <= status < 500, status
    assert TOKEN.encode() not in body
    knows = any(name == b"authorization" and TOKEN.encode() in value for name, value in headers)
    if method not in ("GET", "HEAD") and not knows:
        assert status in (401, 403, 421), status
    assert not _overview.drained or knows


async def _ask(method: str, path: str, query: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[int, bytes]:
    told: list[Message] = []
    scope: dict[str, Any] = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(errors="replace"), "root_path": "", "query_string": query,
        "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 9090),
    }  # fmt: skip

    async def receive() -> Message:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        told.append(message)

    await _app(scope, receive, send)
    return told[0]["status"], b"".join(message.get("body", b"") for message in told[1:])
