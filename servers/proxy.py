"""A TCP proxy on loopback that misbehaves on request, in a thread of its own."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from servers.process import free_ports

CHUNK = 64 * 1024
LOOPBACK = "127.0.0.1"


class Proxy:
    """Passes connections to its `port` on to `target_port` from when it is entered until it is left.

    Its methods can be called from any thread and take effect before they return.
    """

    def __init__(self, target_port: int) -> None:
        (self.port,) = free_ports(1)
        self._target_port = target_port
        self._seconds = 0.0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._taken: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def cut(self) -> None:
        """Break all connections and refuse new ones."""
        self._call(self._cut())

    def delay(self, seconds: float) -> None:
        """Pass each piece of data on this much later."""
        self._call(self._delay(seconds))

    def drop(self) -> None:
        """Take connections and data and pass nothing on, as when packets get lost; what was held back flows again
        after `restore`, as it would when TCP repeats it."""
        self._call(self._drop())

    def half_close(self) -> None:
        """Tell the clients of all connections that the server has said its last word, which still listens."""
        self._call(self._half_close())

    def restore(self) -> None:
        """Behave."""
        self._call(self._restore())

    @property
    def connections(self) -> int:
        return len(self._links)

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, LOOPBACK, self.port)

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for link in list(self._links):
            link.abort()

    async def _delay(self, seconds: float) -> None:
        self._seconds = seconds

    async def _drop(self) -> None:
        self._flowing.clear()

    async def _half_close(self) -> None:
        for link in list(self._links):
            link.end_of_answers()

    async def _restore(self) -> None:
        self._seconds = 0.0
        self._flowing.set()
        await self._listen()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._take(reader, writer))
        self._taken.add(task)
        task.add_done_callback(self._taken.discard)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(LOOPBACK, self._target_port)
        except OSError:
            _reset(writer)
            return
        link = _Link(writer, far_writer)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, far_writer))
                group.create_task(self._pass(far_reader, writer))
        finally:
            self._links.discard(link)
            link.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until one end closes, and that is passed on too."""
        with contextlib.suppress(OSError, RuntimeError):
            while data := await reader.read(CHUNK):
                if self._seconds:
                    await asyncio.sleep(self._seconds)
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def _end(self) -> None:
        await self._cut()
        tasks = list(self._taken)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # for transports to close their sockets

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Link:
    """The two ends of one connection."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self._near, self._far = near, far

    def abort(self) -> None:
        for writer in (self._near, self._far):
            _reset(writer)

    def end_of_answers(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self._near.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close it so that the other end cannot take it for a polite farewell."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
