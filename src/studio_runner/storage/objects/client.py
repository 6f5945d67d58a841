"""HTTP for all stores of a process: one pool of connections."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from studio_runner.config.settings import StorageSettings
from studio_runner.errors import StorageUnavailableError
from studio_runner.storage.base import CHUNK
from studio_runner.storage.objects.retry import PassingError
from studio_runner.storage.objects.tls import tls_context
from studio_runner.storage.objects.transport import OffLimitsError, transport_faults

_STALL = 30.0
"""Seconds without a byte after which a connection is given up, and less where patience is short."""
_CONNECT = 10.0
_CONNECTIONS = 128
_SLICE = 1 << 18
_REFUSAL = 1 << 16
_ANSWER = 16 << 20
"""Bytes of the longest answer that is no object, a page of a listing for one: servers are the senders' choice."""
_LANES = 16
_METADATA_V6 = ipaddress.ip_address("fd00:ec2::254")


@dataclass(frozen=True)
class Call:
    """One HTTP request; `url` is encoded already. `stall`: seconds that its answer may take to begin, if they are
    more than usual. `follow`: how many redirects."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    stall: float | None = None
    follow: int = 0

    @property
    def endpoint(self) -> str:
        """What may be shown of the address: scheme, host and port."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


class Reply:
    """An answer whose head is here. Its methods raise PassingError when the connection breaks."""

    def __init__(self, response: aiohttp.ClientResponse, endpoint: str) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._content = response.content
        self._endpoint = endpoint

    async def read(self) -> bytes:
        """The whole body; StorageUnavailableError when it has no end."""
        body = await self.first(_ANSWER + 1)
        if len(body) > _ANSWER:
            raise StorageUnavailableError(f"{self._endpoint}: its answer is longer than {_ANSWER:,} bytes")
        return body

    async def first(self, count: int) -> bytes:
        """The beginning of the body, at most `count` bytes."""
        return await self.part(0, count)

    async def part(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end` of the body, as many as there are; what stands before is not kept."""
        held: list[bytes] = []
        at = 0
        while at < end and (piece := await self._next()):
            if wanted := piece[max(0, start - at) : end - at]:
                held.append(wanted)
            at += len(piece)
        return b"".join(held)

    async def beginning(self) -> bytes:
        """So much of the body as an error's text takes."""
        text = b""
        with transport_faults(self._endpoint):
            while len(text) < _REFUSAL and (piece := await self._content.readany()):
                text += piece
        return text

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, in pieces of CHUNK or so; what came before a connection broke is given first."""
        held: list[bytes] = []
        size = 0
        try:
            while piece := await self._next():
                held.append(piece)
                size += len(piece)
                if size >= CHUNK:
                    yield b"".join(held)
                    held, size = [], 0
        except PassingError:
            if held:
                yield b"".join(held)
            raise
        if held:
            yield b"".join(held)

    async def _next(self) -> bytes:
        """What came as it came: `readany` would copy it. Empty at the end."""
        with transport_faults(self._endpoint):
            piece = b""
            while not piece and not self._content.at_eof():  # at the end of a chunk, as HTTP has them, it is empty
                piece, _ = await self._content.readchunk()
            return piece


class _Body:
    """Bytes that are sent in slices, so that no other work waits for them; each that went renews the watch."""

    def __init__(self, data: bytes, watch: asyncio.Timeout, stall: float) -> None:
        self._data = data
        self._watch = watch
        self._stall = stall

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        view = memoryview(self._data)
        clock = asyncio.get_running_loop().time
        for at in range(0, len(view), _SLICE):
            if not self._watch.expired():
                self._watch.reschedule(clock() + self._stall)
            yield view[at : at + _SLICE]


def no_link_local(info: aiohttp.AddrInfoType) -> socket.socket:
    """A socket for this address; OffLimitsError for those of services that clouds offer a machine itself. One of
    them hands out the runner's own credentials to whoever asks, and no store is there."""
    family, kind, protocol, _, address = info
    place = ipaddress.ip_address(str(address[0]).partition("%")[0])
    place = getattr(place, "ipv4_mapped", None) or place
    if place.is_link_local or place == _METADATA_V6:
        raise OffLimitsError(f"{place} belongs to this machine itself and is no store")
    return socket.socket(family, kind, protocol)


class Client:
    """Sends requests. Belongs to the event loop of its first request; `close` it there. `sockets` makes its
    connections' sockets, None: as usual."""

    def __init__(
        self, settings: StorageSettings, sockets: aiohttp.SocketFactoryType | None = no_link_local
    ) -> None:
        self._settings = settings
        self._sockets = sockets
        self._session: aiohttp.ClientSession | None = None
        self.lanes = asyncio.Semaphore(_LANES)
        """Bounds how many large bodies are on their way out at a time, and the memory they take."""

    @property
    def patience(self) -> float:
        return self._settings.patience

    @asynccontextmanager
    async def send(self, call: Call) -> AsyncIterator[Reply]:
        """The answer to one request. PassingError, StorageUnavailableError, ConfigError."""
        response = await self._begin(call)
        try:
            yield Reply(response, call.endpoint)
        finally:
            # One that was read to its end is back in the pool; the rest of any other is not worth reading.
            response.close()

    async def close(self) -> None:
        """End all connections; a later request opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _begin(self, call: Call) -> aiohttp.ClientResponse:
        stall = call.stall or self._stall
        headers = {**call.headers, "content-length": str(len(call.body))} if call.body else call.headers
        tls = self._tls if call.url.startswith("https:") or call.follow else True
        with transport_faults(call.endpoint):
            async with asyncio.timeout(stall) as watch:
                return await self._opened.request(
                    call.method,
                    URL(call.url, encoded=True),
                    headers=headers,
                    data=_Body(call.body, watch, stall) if call.body else None,
                    allow_redirects=call.follow > 0,
                    max_redirects=call.follow or 1,
                    ssl=tls,
                    proxy=self._proxy(call.url),
                    timeout=aiohttp.ClientTimeout(sock_connect=_CONNECT, sock_read=stall),
                )

    @property
    def _stall(self) -> float:
        """Short enough to try again a time or two."""
        return min(_STALL, max(self.patience / 3, 1.0))

    @property
    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS, socket_factory=self._sockets),
                auto_decompress=False,
                read_bufsize=CHUNK,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("content-type", "accept"),
                headers={"accept-encoding": "identity", "user-agent": "studio-runner"},
            )
        return self._session

    def _proxy(self, url: str) -> str | None:
        parts = urlsplit(url)
        proxy = self._proxies.get(parts.scheme)
        return None if proxy is None or proxy_bypass(parts.netloc.rpartition("@")[2]) else proxy

    @cached_property
    def _proxies(self) -> dict[str, str]:
        return getproxies()

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return tls_context(self._settings)
