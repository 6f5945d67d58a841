"""The runner's side of the fork server: starting, watching and ending process trees.

`Spawner` owns the server (`keeper.py`) and every tree; leaving its context leaves no process.
"""

import asyncio
import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from studio_runner.errors import EnvironmentFailedError, ExperimentError, InvalidMessageError
from studio_runner.process import keeper
from studio_runner.process.base import Command, Exit
from studio_runner.process.environ import clean_environment
from studio_runner.process.limits import Limits

_KEEPER_PROGRAM = Path(keeper.__file__)
_STARTS_AT_ONCE = 16
"""Requests on their way to the server; more would fill its socket and block."""
_READ = 65536
_LOOK_IN_LOG = "look for an out-of-memory kill or a person's kill in the system's log"


class Process:
    """One running tree. Made by `Spawner.spawn`."""

    def __init__(self, server: "_Server", control: socket.socket) -> None:
        self._server = server
        self._control = control
        self._received = b""
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[dict[str, Any] | None] = self._loop.create_future()
        self._ended: asyncio.Future[dict[str, Any] | None] = self._loop.create_future()
        self.pid = 0
        self.supervisor = 0
        """The process between the server and the script; every process of the tree is below it."""
        self._loop.add_reader(control, self._readable)

    async def start(self, request: bytes) -> dict[str, Any] | None:
        """Hand over the request; what came of it, None when nobody answered."""
        try:
            await self._loop.sock_sendall(self._control, request)
        except ConnectionError:
            return None
        answer = await self._started
        if answer and "pid" in answer:
            self.pid, self.supervisor = answer["pid"], answer["supervisor"]
        return answer

    async def wait(self) -> Exit:
        """Until the whole tree is gone. ExperimentError when its supervisor was killed, and the tree with it."""
        await self.until_gone()
        answer = self._ended.result()
        if answer is None:
            raise ExperimentError(
                f"the supervisor {self.supervisor} of process {self.pid} was killed, and the whole tree with it",
                hint=_LOOK_IN_LOG,
            )
        return _exit(answer)

    def terminate(self) -> None:
        """SIGTERM to every process of the tree; those that outlive the first one are left until `kill`."""
        self._order(keeper.TERMINATE)

    def kill(self) -> None:
        """SIGKILL to every process of the tree, again until none is left."""
        self._order(keeper.KILL)

    async def stop(self, grace: float) -> Exit:
        """SIGTERM, `grace` seconds for the whole tree, SIGKILL, and wait until it is gone."""
        self.terminate()
        try:
            async with asyncio.timeout(grace):
                return await self.wait()
        except TimeoutError:
            self.kill()
            return await self.wait()
        finally:
            self.kill()

    def pids(self) -> list[int]:
        """The live processes of the tree."""
        return [] if self._ended.done() else keeper.descendants(self.supervisor)

    async def until_gone(self) -> None:
        """Like `wait`, for those who do not ask how it ended."""
        if await asyncio.shield(self._ended) is None:
            await self._server.swept(self.supervisor)

    @property
    def ended(self) -> bool:
        return self._ended.done()

    @property
    def server_died(self) -> bool:
        return self._server.died

    def close(self) -> None:
        """Let go of the tree; its supervisor takes that as an order to kill it."""
        self._finish(None)

    def _order(self, order: bytes) -> None:
        if not self._ended.done():
            with contextlib.suppress(ConnectionError, BlockingIOError):  # just ended, or hundreds of orders unread
                self._control.send(order)

    def _readable(self) -> None:
        try:
            data = self._control.recv(_READ)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            self._answered(json.loads(line))
        if not data:
            self._finish(None)

    def _answered(self, answer: dict[str, Any]) -> None:
        if not self._started.done():
            self._started.set_result(answer)
        else:
            self._finish(answer)

    def _finish(self, answer: dict[str, Any] | None) -> None:
        if self._ended.done():
            return
        self._loop.remove_reader(self._control)
        self._control.close()
        self._ended.set_result(answer)
        if not self._started.done():
            self._started.set_result(None)


class Spawner:
    """Starts process trees; async context manager. For one event loop."""

    def __init__(self) -> None:
        self._server: _Server | None = None
        self._starting = asyncio.Semaphore(_STARTS_AT_ONCE)
        self._processes: set[Process] = set()

    async def __aenter__(self) -> Self:
        self._server = _Server()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        server, self._server = self._server, None
        try:
            for process in self._processes:
                process.kill()
            for process in self._processes:
                await process.until_gone()
        finally:  # cancelled meanwhile: closed sockets end whatever is left
            for process in self._processes:
                process.close()
            if server:
                await server.close()

    async def spawn(self, command: Command, output: int, limits: Limits) -> Process:
        """Start `command` with standard output and error on the descriptor `output`, which stays the caller's.

        Returns when the program has been executed. A program that cannot be executed is EnvironmentFailedError,
        arguments that no program can be given InvalidMessageError, anything else ExperimentError.
        """
        request = _encoded(command, limits)
        async with self._starting:
            for _ in range(2):
                process = self._ask(output)
                try:
                    answer = await process.start(request)
                except BaseException:
                    process.close()
                    raise
                if answer is None and process.server_died:
                    continue  # nothing was started, or it died with the server; a new one is there now
                return self._accepted(process, answer, command)
        raise ExperimentError("processes cannot be started: the fork server keeps dying", hint=_LOOK_IN_LOG)

    def _ask(self, output: int) -> Process:
        """Have a supervisor forked; by a new server when the present one is found dead."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            server = self._alive()
            try:
                server.request(theirs, output)
            except ConnectionError:
                server = self._alive()
                server.request(theirs, output)
            return Process(server, ours)

    def _alive(self) -> "_Server":
        if self._server is None:
            raise RuntimeError("spawn outside of the Spawner's context")
        if self._server.died:
            self._server = _Server()
        return self._server

    def _accepted(self, process: Process, answer: dict[str, Any] | None, command: Command) -> Process:
        if answer and "pid" in answer:
            self._processes = {other for other in self._processes if not other.ended} | {process}
            return process
        process.close()
        raise _failure(answer or {}, command)


class _Server:
    """The running fork server program."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._program = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "utf8", str(_KEEPER_PROGRAM), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=clean_environment(os.environ),
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a terminal's Ctrl-C is the runner's business
            )
        self._socket.setblocking(False)
        self._received = b""
        self._ended = asyncio.Event()
        self._swept: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)
        asyncio.get_running_loop().add_reader(self._socket, self._readable)

    @property
    def died(self) -> bool:
        return self._ended.is_set()

    def request(self, control: socket.socket, output: int) -> None:
        """Ask for a supervisor; ConnectionError when the server is dead."""
        try:
            socket.send_fds(self._socket, [keeper.SPAWN], [control.fileno(), output])
        except ConnectionError:
            self._end()
            raise

    async def swept(self, supervisor: int) -> None:
        """Until the tree of a killed supervisor is gone, as far as this server lives to see it."""
        if not self.died:
            await self._swept[supervisor].wait()

    async def close(self) -> None:
        """Ends when the server has, which is after its last supervisor."""
        if not self.died:
            self._socket.shutdown(socket.SHUT_WR)
            await self._ended.wait()

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_READ)
        except ConnectionError:
            data = b""
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            self._swept[int(line.removeprefix(b"gone "))].set()
        if not data:
            self._end()

    def _end(self) -> None:
        if not self.died:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._program.wait()  # its last act was to close the socket
            self._ended.set()
            for event in self._swept.values():
                event.set()


def _encoded(command: Command, limits: Limits) -> bytes:
    request = {
        "argv": command.argv,
        "env": dict(command.env),
        "cwd": str(command.cwd),
        "limits": limits.kernel(),
    }
    body = json.dumps(request).encode()
    return keeper.LENGTH.pack(len(body)) + body


def _exit(answer: dict[str, Any]) -> Exit:
    code = os.waitstatus_to_exitcode(answer["status"])
    return Exit(
        code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        peak_memory=answer["peak_memory"],
        cpu_seconds=answer["cpu_seconds"],
        left_behind=answer["left_behind"],
    )


def _failure(answer: dict[str, Any], command: Command) -> ExperimentError:
    number, at = answer.get("error"), answer.get("at")
    if at == "execute" and number is None:
        return InvalidMessageError(
            "$.config.env", answer["message"], "names without '=', and no NUL character anywhere"
        )
    if at == "execute" and number == errno.E2BIG:
        return InvalidMessageError(
            "$.experiment.args",
            "arguments and environment too large together",
            f"at most {os.sysconf('SC_ARG_MAX')} bytes, 128 KiB in one of them",
        )
    if at == "execute":
        return EnvironmentFailedError(
            f"cannot execute {command.argv[0]}: {os.strerror(number or 0)}",
            hint="it must be a program of this machine that the runner's user may execute",
        )
    if number is None:
        return ExperimentError("the supervisor of a process ended before it started it", hint=_LOOK_IN_LOG)
    return ExperimentError(f"cannot start a process in {command.cwd}: {os.strerror(number)} ({at})")
