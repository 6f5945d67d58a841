"""The HTTP server inside the runner's own event loop."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 200
"""More than so many at a time are answered with 503."""
SILENCE = 10.0
"""Seconds that a connection has for its request: who asks for nothing keeps nobody else out."""
FAREWELL = 1
"""Seconds that open responses get to end when the runner ends."""


class _Protocol(H11Protocol):
    """Ends connections on which no whole request comes."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._late:
            self._late.cancel()

    def _await_request(self) -> None:
        if self._late:
            self._late.cancel()
        self._late = self.loop.call_later(SILENCE, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # type: ignore[redundant-expr]  # None at first
            self.transport.close()


class _Server(uvicorn.Server):
    """Without what a server needs that is a process of its own: signal handlers, and waking ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._over = asyncio.Event()

    def end(self) -> None:
        self._over.set()

    async def main_loop(self) -> None:
        await self._over.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Whoever does not read the rest of a response must not keep the runner."""
        impatience = asyncio.get_running_loop().call_later(FAREWELL, self._hang_up)
        await super().shutdown(sockets)
        impatience.cancel()

    def _hang_up(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(app: ASGIApp, sock: socket.socket, farewell: Callable[[], None]) -> AsyncIterator[None]:
    """Answer requests that come to `sock` until the context ends; `farewell` ends the responses that never end by
    themselves."""
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # what clients do wrong is for them to hear of
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=2 * FAREWELL,
    )
    server = _Server(config)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve([sock]), name="http")
        try:
            yield
        finally:
            farewell()
            server.end()
