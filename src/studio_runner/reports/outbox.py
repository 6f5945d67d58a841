"""Posting JSON to somebody else's server, behind everybody's back: the only place here that speaks HTTP."""

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from studio_runner import __version__

if TYPE_CHECKING:  # takes a quarter of a second, and most runners post nothing
    import aiohttp

log = logging.getLogger(__name__)

TRIES = 3
PAUSE = 1.0
"""Seconds before the second try; four times that before the third."""
LONGEST_PAUSE = 60.0
"""Of what a server may ask for (`Retry-After`)."""
TIMEOUT = 10.0
"""Seconds for one try."""
MOST = 1000
"""Posts that wait for one receiver; beyond that the oldest are dropped."""
CLOSING = 5.0
"""Seconds that the runner's own end waits for the posts that are left."""

_MOST_READ = 4096
"""Bytes of an answer that are looked at."""
_PASSING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})


@dataclass(frozen=True)
class Receiver:
    """Where posts go. The address is a secret, and so are the headers: `name` is for people."""

    name: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, kind: str, url: str, headers: Mapping[str, str] | None = None) -> Self:
        """Named after its kind and host."""
        return cls(f"{kind} at {urlsplit(url).netloc.rpartition('@')[2]}", url, headers or {})


@dataclass(frozen=True)
class Refusal:
    """A post was not taken. `pause`: the seconds that the server asks to wait; None: it never will be taken."""

    why: str
    pause: float | None


class Outbox:
    """Posts to one receiver, one after the other, in order. To be entered; leaving it waits for what is left."""

    def __init__(self, receiver: Receiver, session: "aiohttp.ClientSession") -> None:
        self._receiver, self._session = receiver, session
        self._waiting: deque[Mapping[str, Any]] = deque()
        self._news = asyncio.Event()
        self._closing = asyncio.Event()
        self._dropped = 0
        self._failing = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._work(), name=f"posts to {self._receiver.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task  # noqa: S101 - it was entered
        self._closing.set()
        self._news.set()
        try:
            await asyncio.wait([self._task], timeout=CLOSING)
        finally:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._waiting:
            log.warning("%d notifications of the %s were not sent", len(self._waiting), self._receiver.name)

    def post(self, body: Mapping[str, Any]) -> None:
        """Returns at once."""
        if len(self._waiting) >= MOST:
            self._waiting.popleft()
            if not self._dropped:
                log.warning("The %s takes too long: the oldest notifications are dropped", self._receiver.name)
            self._dropped += 1
        self._waiting.append(body)
        self._news.set()

    async def _work(self) -> None:
        while self._waiting or not self._closing.is_set():
            while self._waiting:
                body = self._waiting[0]
                await self._deliver(body)
                if self._waiting and self._waiting[0] is body:  # else it was dropped meanwhile
                    self._waiting.popleft()
            self._news.clear()
            if not self._closing.is_set():
                await self._news.wait()

    async def _deliver(self, body: Mapping[str, Any]) -> None:
        """Some tries, then it is forgotten."""
        for number in range(TRIES):
            refusal = await self._refusal(body)
            if refusal is None:
                self._failing = False
                return
            if refusal.pause is None or number == TRIES - 1:
                self._complain(refusal.why)
                return
            await self._pause(max(refusal.pause, PAUSE * 4**number))

    async def _refusal(self, body: Mapping[str, Any]) -> Refusal | None:
        """One try; None when it was taken."""
        import aiohttp  # noqa: PLC0415

        content = json.dumps(body).encode()
        headers = {"Content-Type": "application/json; charset=utf-8", **self._receiver.headers}
        try:
            async with self._session.post(
                self._receiver.url, data=content, headers=headers, allow_redirects=False
            ) as answer:
                return _judged(answer.status, answer.headers, await answer.content.read(_MOST_READ))
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError among them
            return Refusal(_reason(error), 0.0)

    def _complain(self, why: str) -> None:
        """Once, until it works again."""
        if not self._failing:
            self._failing = True
            log.warning("The %s does not take notifications: %s", self._receiver.name, why)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(min(seconds, LONGEST_PAUSE)):
                await self._closing.wait()
        except TimeoutError:
            return
        await asyncio.sleep(min(seconds, PAUSE))  # the runner ends: a shorter pause, not none


@asynccontextmanager
async def opened_session() -> AsyncIterator["aiohttp.ClientSession"]:
    """What all outboxes of a runner share. Neither proxies nor `.netrc` of the runner's environment count: nothing
    goes anywhere but to the configured addresses."""
    import aiohttp  # noqa: PLC0415

    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=TIMEOUT),
        headers={"User-Agent": f"studio-runner/{__version__}"},
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield session


def _judged(status: int, headers: Mapping[str, str], content: bytes) -> Refusal | None:
    """Slack says in the answer's body whether it is `ok`, whatever the status."""
    pause = _seconds(headers.get("Retry-After"))
    if status < HTTPStatus.OK or status >= HTTPStatus.MULTIPLE_CHOICES:
        passing = status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        return Refusal(f"it answers {status}{_said(content)}", pause if passing else None)
    if content.lstrip().startswith(b"{") and (error := _slack_error(content)):
        return Refusal(f"it answers {error!r}", pause if error == "ratelimited" else None)
    return None


def _slack_error(content: bytes) -> str | None:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return str(answer.get("error"))[:100] if answer.get("ok") is False else None


def _said(content: bytes) -> str:
    text = " ".join(content.decode(errors="replace").split())[:100]
    return f" ({text})" if text.isprintable() and text else ""


def _seconds(retry_after: str | None) -> float:
    return float(retry_after) if retry_after and retry_after.isascii() and retry_after.isdigit() else 0.0


def _reason(error: Exception) -> str:
    """Without the address, which errors of the library quote."""
    inner = getattr(error, "os_error", None)
    detail = getattr(inner, "strerror", None) or getattr(error, "strerror", None)
    return (
        str(detail)
        if detail
        else {"TimeoutError": "no answer in time"}.get(type(error).__name__, type(error).__name__)
    )
