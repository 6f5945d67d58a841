"""The HTTP server and clients that mean no good."""

import asyncio
import socket
from contextlib import suppress

import pytest
from starlette.responses import PlainTextResponse

from studio_runner.web import server

ANSWER = PlainTextResponse("ok")


async def slow(scope, receive, send):
    await asyncio.sleep(3 * server.SILENCE)
    await ANSWER(scope, receive, send)


@pytest.fixture
async def connect(monkeypatch):
    """Opens a connection to a server that answers `/slow` late."""
    monkeypatch.setattr(server, "SILENCE", 0.3)

    async def app(scope, receive, send):
        await (slow if scope["path"] == "/slow" else ANSWER)(scope, receive, send)

    with socket.create_server(("127.0.0.1", 0)) as sock:
        async with server.serving(app, sock, lambda: None):
            yield lambda: asyncio.open_connection(*sock.getsockname())


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: here\r\nX-", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"]
)
async def test_who_asks_for_nothing_is_hung_up_on(connect, sent):
    reader, writer = await connect()
    writer.write(sent)
    async with asyncio.timeout(60):
        said = await reader.read()
    assert said.endswith(b"ok") is sent.endswith(b"\r\n\r\n")
    writer.close()


async def test_dripping_does_not_help(connect):
    reader, writer = await connect()

    async def drip():
        while True:
            writer.write(b"X: 1\r\n")
            await asyncio.sleep(0.02)

    writer.write(b"GET / HTTP/1.1\r\n")
    dripping = asyncio.create_task(drip())
    async with asyncio.timeout(60):
        with suppress(ConnectionResetError):  # as it may look to who writes on
            assert await reader.read() == b""
    dripping.cancel()
    writer.close()


async def test_a_slow_answer_is_waited_for(connect):
    reader, writer = await connect()
    writer.write(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
    async with asyncio.timeout(60):
        assert (await reader.read()).endswith(b"ok")
    writer.close()
