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
"""Requests on their way; more would fill the server's socket."""
_IDLE_SUPERVISORS = 4
"""Kept for the next experiments: they need a fork less, for 2 MB of memory each."""
_READ = 65536
_LOOK_IN_LOG = "look for an out-of-memory kill or a person's kill in the system's log"

_Answer = dict[str, Any]


class Process:
    """One running tree. Made by `Spawner.spawn`."""

    def __init__(self, supervisor: "_Supervisor", pid: int, number: int) -> None:
        self._supervisor = supervisor
        self._ended = supervisor.ended
        self.pid = pid
        self.supervisor = number
        """The process between the server and the script; every process of the tree is below it."""

    async def wait(self) -> Exit:
        """Until the whole tree is gone. ExperimentError when its supervisor was killed, and the tree with it."""
        answer = await asyncio.shield(self._ended)
        if answer is None:
            await self._supervisor.swept(self.supervisor)
            raise ExperimentError(
                f"the supervisor {self.supervisor} of process {self.pid} was killed, and the whole tree with it",
                hint=_LOOK_IN_LOG,
            )
        return _exit(answer)

    async def until_gone(self) -> None:
        """Like `wait`, for those who do not ask how it ended."""
        if await asyncio.shield(self._ended) is None:
            await self._supervisor.swept(self.supervisor)

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
        return [] if self.ended else keeper.descendants(self.supervisor)

    @property
    def ended(self) -> bool:
        return self._ended.done()

    def _order(self, order: bytes) -> None:
        if not self.ended:
            self._supervisor.order(order)


class Spawner:
    """Starts process trees; async context manager. For one event loop."""

    def __init__(self) -> None:
        self._server: _Server | None = None
        self._starting = asyncio.Semaphore(_STARTS_AT_ONCE)
        self._busy: dict[Process, _Supervisor] = {}
        self._idle: list[_Supervisor] = []

    async def __aenter__(self) -> Self:
        self._server = _Server()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        server, self._server = self._server, None
        try:
            for process in list(self._busy):
                process.kill()
            for process in list(self._busy):
                await process.until_gone()
        finally:
            for supervisor in (*self._busy.values(), *self._idle):
                supervisor.close()
            if server:
                await server.close()

    async def spawn(self, command: Command, output: int, limits: Limits) -> Process:
        """Start `command` with standard output and error on the descriptor `output`, which stays the caller's.

        Returns when the program has been executed. A program that cannot be executed is EnvironmentFailedError,
        arguments that no program can be given InvalidMessageError, anything else ExperimentError.
        """
        request = _encoded(command, limits)
        async with self._starting:
            for _ in range(2):  # a supervisor that does not answer was killed; that once is no reason to give up
                supervisor = self._take_supervisor()
                try:
                    answer = await supervisor.start(request, output)
                except BaseException:
                    supervisor.close()
                    raise
                if answer is not None:
                    return self._accepted(supervisor, answer, command)
        raise ExperimentError("no process can be started: its supervisors are killed", hint=_LOOK_IN_LOG)

    def _take_supervisor(self) -> "_Supervisor":
        """An idle one, or a new one, from a new server when the present one is found dead."""
        while self._idle:
            supervisor = self._idle.pop()
            if supervisor.usable:
                return supervisor
            supervisor.close()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                server = self._alive()
                server.request(theirs)
            except ConnectionError:
                server = self._alive()
                server.request(theirs)
        return _Supervisor(server, ours)

    def _alive(self) -> "_Server":
        if self._server is None:
            raise RuntimeError("spawn outside of the Spawner's context")
        if self._server.died:
            self._server = _Server()
        return self._server

    def _accepted(self, supervisor: "_Supervisor", answer: _Answer, command: Command) -> Process:
        if "pid" not in answer:
            self._keep(supervisor)
            raise _failure(answer, command)
        process = Process(supervisor, answer["pid"], answer["supervisor"])
        if process.ended:  # a quick one: free at once, not when the loop comes round
            self._keep(supervisor)
        else:
            self._busy[process] = supervisor
            supervisor.ended.add_done_callback(lambda _: self._keep(self._busy.pop(process)))
        return process

    def _keep(self, supervisor: "_Supervisor") -> None:
        """It has no child any more and can start another tree."""
        if supervisor.usable and len(self._idle) < _IDLE_SUPERVISORS and self._server is not None:
            self._idle.append(supervisor)
        else:
            supervisor.close()


class _Supervisor:
    """The runner's end of a supervisor's control socket. One request is under way at most."""

    def __init__(self, server: "_Server", control: socket.socket) -> None:
        self._server = server
        self._control = control
        self._received = b""
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[_Answer | None] = self._loop.create_future()
        self.ended: asyncio.Future[_Answer | None] = self._loop.create_future()
        """How the tree of the last request ended; None when this supervisor was killed."""
        control.setblocking(False)
        self._loop.add_reader(control, self._readable)

    @property
    def usable(self) -> bool:
        """Neither it nor the server that would sweep after it is dead."""
        return self._control.fileno() >= 0 and not self._server.died

    async def start(self, request: bytes, output: int) -> _Answer | None:
        """Hand over a request; what came of it, None when nobody answered."""
        self._started, self.ended = self._loop.create_future(), self._loop.create_future()
        try:
            socket.send_fds(self._control, [keeper.SPAWN], [output])
            await self._loop.sock_sendall(self._control, request)
        except ConnectionError:
            self.close()
        return await self._started

    def order(self, order: bytes) -> None:
        with contextlib.suppress(ConnectionError, BlockingIOError):  # just ended, or hundreds of orders unread
            self._control.send(order)

    async def swept(self, number: int) -> None:
        await self._server.swept(number)

    def close(self) -> None:
        """Let go of it; it takes that as an order to kill its tree, if it has one, and to end."""
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control)
            self._control.close()
            self._settle(None)
            self._settle(None)

    def _readable(self) -> None:
        try:
            data = self._control.recv(_READ)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            self._settle(json.loads(line))
        if not data:
            self.close()

    def _settle(self, answer: _Answer | None) -> None:
        """Of the answers to a request the first says whether it started, the second how it ended."""
        if not self._started.done():
            self._started.set_result(answer)
        elif not self.ended.done():
            self.ended.set_result(answer)


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

    def request(self, control: socket.socket) -> None:
        """Ask for a supervisor; ConnectionError when the server is dead."""
        try:
            socket.send_fds(self._socket, [keeper.SPAWN], [control.fileno()])
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
        "oom_score": limits.oom_score,
        "join": limits.groups.join,
        "birth": limits.groups.birth,
        "kill": limits.groups.kill,
        "helpers": command.helpers,
    }
    body = json.dumps(request).encode()
    return keeper.LENGTH.pack(len(body)) + body


def _exit(answer: _Answer) -> Exit:
    code = os.waitstatus_to_exitcode(answer["status"])
    return Exit(
        code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        peak_memory=answer["peak_memory"],
        cpu_seconds=answer["cpu_seconds"],
        left_behind=answer["left_behind"],
    )


def _failure(answer: _Answer, command: Command) -> ExperimentError:
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
    what = os.strerror(number) if number else answer.get("message")
    return ExperimentError(f"cannot start a process in {command.cwd}: {what} ({at})")
