"""A registry that a sender named, and that means no good."""

import asyncio
import socket
import threading
from contextlib import suppress

import pytest

from studio_runner.environments.images import registry
from studio_runner.environments.images.reference import Reference
from studio_runner.environments.images.registry import Inquiry, version_in_time
from studio_runner.errors import EnvironmentUnavailableError


@pytest.fixture
def dripping():
    """Answers with a header that never ends, a byte every now and then, well within the patience for one."""
    over = threading.Event()

    def drip(connection):
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not over.wait(0.05):
                connection.sendall(b"x")

    def serve(listener):
        with suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(listener.accept()[0],)).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
    server.join()


async def test_one_that_answers_a_byte_at_a_time_keeps_nobody_for_long(dripping, monkeypatch):
    monkeypatch.setattr(registry, "PATIENCE", 0.5)
    question = Inquiry(Reference.parse("docker", f"{dripping}/team/box:1"), None, "http")
    asked = [version_in_time(question) for _ in range(100)]  # more than the loop has threads
    for found in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(found, EnvironmentUnavailableError)
        assert "does not answer in 0.5 s" in str(found)
    async with asyncio.timeout(30):
        assert await asyncio.to_thread(lambda: "there is a thread") == "there is a thread"
