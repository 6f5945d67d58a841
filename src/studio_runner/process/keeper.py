"""The fork server: a small program of its own that starts experiments' processes and never loses one.

`keeper` (one per runner) forks a `supervisor` per experiment, which forks the script and stays until every
descendant of it is gone, daemons included: it is their subreaper. What ties them together are sockets, not good
behaviour: when the runner dies, however it dies, each supervisor reads end-of-file and kills its tree; when a
supervisor dies, the kernel kills the script (parent death signal) and the keeper, a subreaper too, kills the rest.

Run as `python -I -S keeper.py FD`, so it stands alone: standard library only, and few modules (`typing` is not one
of them), because every supervisor is a fork of it. `spawn.py` is at the other end of the sockets;
docs/explanation/processes.md has the whole story.

Keeper socket: one byte with a descriptor (control socket) asks for a supervisor; `gone PID` lines come back when
the tree of a supervisor that was itself killed has been swept.
Control socket: `s` with a descriptor (output), a length and a JSON request in, then `t` (terminate) and `k` (kill);
JSON lines come back, first `{"pid", "supervisor"}` or `{"error", "at"}`, and when the whole tree is gone
`{"status", ...}`. Then the supervisor has no child and takes the next request: a fork less for each but the first.
"""

import contextlib
import ctypes
import functools
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator

LENGTH = struct.Struct("!I")
SPAWN, TERMINATE, KILL = b"s", b"t", b"k"
LINUX = sys.platform == "linux"

_LINGER = 1.0
"""Seconds that processes left behind by the script get to end by themselves (`exec > >(tee log)`): on a busy
machine the last of the output is lost with less."""
_RETRY_MS = 50
"""Between two rounds of killing; each round finds what was forked meanwhile."""
_FREEZES = 30
"""Times that processes are stopped before all are killed; who forks faster than that is met in the next round."""
_SHIELDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)
"""Ignored here: a service manager signals everything at once, and these processes end by their sockets."""
_MAXRSS_UNIT = 1024 if LINUX else 1
_CLONE3, _CLONE_INTO_CGROUP = 435, 0x2_0000_0000
_CLONE_ARGUMENTS = struct.Struct("=11Q")
"""Of linux/sched.h: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
set_tid_size, cgroup."""
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36


def descendants(root: int) -> list[int]:
    """Every process below `root`; empty where there is no /proc."""
    children = _family()
    found: dict[int, None] = {}
    waiting = [root]
    while waiting:
        below = [pid for pid in children(waiting.pop()) if pid not in found]
        waiting += below
        found.update(dict.fromkeys(below))
    return list(found)


def _family() -> "Callable[[int], list[int]]":
    """What tells the children of a process."""
    if _has_children_files():
        return _children
    table = _children_by_parent()
    return lambda pid: table.get(pid, [])


def _has_children_files() -> bool:
    pid = os.getpid()
    return os.path.exists(f"/proc/{pid}/task/{pid}/children")


def _children(pid: int) -> list[int]:
    """Each thread has its own; what ends while we look has none any more, they have another parent then."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        found += map(int, _content(f"/proc/{pid}/task/{thread}/children").split())
    return found


def _content(path: str) -> bytes:
    """Without a file object: this is read for every process of every tree, again and again."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    content = b""
    try:
        while piece := os.read(file, 65536):
            content += piece
    except OSError:  # it has ended
        pass
    finally:
        os.close(file)
    return content


def _children_by_parent() -> dict[int, list[int]]:
    """The same from /proc/*/stat, for kernels without the `children` files."""
    table: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if LINUX else ():
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", "rb", buffering=0) as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue
            table.setdefault(parent, []).append(int(name))
    return table


def main(descriptor: int) -> None:
    os.chdir("/")
    _own_signals()
    if LINUX:
        outweigh()
        _prctl(_PR_SET_NAME, b"studio-keeper")
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    gc.disable()  # nothing here makes cycles, and a collection would unshare the pages of every supervisor
    gc.freeze()
    with socket.socket(fileno=descriptor) as server:
        server.setblocking(True)
        _Keeper(server).serve()


def outweigh(nice: int = -20) -> None:
    """Where the kernel deals out processor time by session, have this one count for eighty-six of those that a
    script can open by the thousand. Only root may; for others nothing changes."""
    with contextlib.suppress(OSError):
        _write("/proc/self/autogroup", str(nice))


def _own_signals() -> None:
    """Undo what was ignored or blocked when the runner was started: the script inherits nothing of it."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals():
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for number in _SHIELDED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, _wake)


def _wake(_number: int, _frame: object) -> None:
    """A handler has to stand for `set_wakeup_fd` to write."""


@functools.cache  # loading it again for every experiment would cost more than the call
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@functools.cache
def _libc_holding_on() -> ctypes.PyDLL:
    """The same for a call that returns twice: the interpreter's lock is not let go of, so the child has it too."""
    return ctypes.PyDLL(None)


def _prctl(option: int, value: int | bytes) -> None:
    argument = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    if _libc().prctl(option, argument, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _kill(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # gone, or another user's by now (setuid)
            os.kill(pid, number)


def _frozen() -> list[int]:
    """Every process below this one, all of them stopped: one that is killed makes room for the next fork of
    another, one that is stopped does not fork."""
    found: dict[int, None] = {}
    with before_others():
        for _ in range(_FREEZES):
            fresh = [pid for pid in descendants(os.getpid()) if pid not in found]
            if not fresh:
                break
            found.update(dict.fromkeys(fresh))
            _kill(_whole_groups(fresh), signal.SIGSTOP)
    return list(found)


@contextlib.contextmanager
def before_others() -> Iterator[None]:
    """With real-time priority, if this user may have it: thousands that fork leave no time to anybody else."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except OSError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _whole_groups(pids: list[int]) -> list[int]:
    """As numbers to signal, whole process groups first: at once, so nothing in them can fork away."""
    own, groups = os.getpgrp(), set[int]()
    for pid in pids:
        with contextlib.suppress(OSError):
            groups.add(os.getpgid(pid))
    return [*(-group for group in groups - {own}), *pids]


class _Children:
    """Turns SIGCHLD into something that `poll` sees, and collects the dead."""

    def __init__(self) -> None:
        self.descriptor, self._write = os.pipe()
        os.set_blocking(self.descriptor, False)
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        os.close(self.descriptor)
        os.close(self._write)

    def collect(self) -> "tuple[dict[int, tuple[int, resource.struct_rusage]], bool]":
        """Status and usage by process of those that ended, and whether any other is left."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.descriptor, 4096)
        ended: dict[int, tuple[int, resource.struct_rusage]] = {}
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return ended, False
            if pid == 0:
                return ended, True
            ended[pid] = status, usage


class _Keeper:
    """Serves until the runner's socket is closed and no supervisor is left."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self._children = _Children()
        self._supervisors: set[int] = set()
        self._lost: list[int] = []
        """Supervisors that were killed and whose trees are not proved gone yet."""

    def serve(self) -> None:
        poll = select.poll()
        poll.register(self._server, select.POLLIN)
        poll.register(self._children.descriptor, select.POLLIN)
        serving = True
        while serving or self._supervisors or self._lost:
            ready = dict(poll.poll(_RETRY_MS if self._lost else None))
            if self._server.fileno() in ready and not self._accept():
                poll.unregister(self._server)
                serving = False
            self._collect()

    def _accept(self) -> bool:
        data, received = _receive_descriptor(self._server)
        if not data:
            return False
        with socket.socket(fileno=received) as control:
            try:
                self._fork(control)
            except OSError as error:
                _answer(control, {"error": error.errno, "at": "fork"})
        return True

    def _fork(self, control: socket.socket) -> None:
        pid = os.fork()
        if pid:
            self._supervisors.add(pid)
            return
        status = 1
        try:
            self._children.close()
            self._server.close()
            _supervise(control)
            status = 0
        except BaseException:  # noqa: BLE001 - the end of this process; keeper and runner see that it failed
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)

    def _collect(self) -> None:
        ended, _ = self._children.collect()
        self._lost += [pid for pid, (status, _) in ended.items() if status and pid in self._supervisors]
        self._supervisors -= ended.keys()
        if self._lost and not self._sweep():
            self._tell_gone()

    def _sweep(self) -> int:
        """Kill what fell to us from a lost supervisor; each of them dying hands its own children to us."""
        orphans = [pid for pid in _family()(os.getpid()) if pid not in self._supervisors]
        for pid in orphans:
            _kill([pid, *descendants(pid)], signal.SIGKILL)
        return len(orphans)

    def _tell_gone(self) -> None:
        with contextlib.suppress(ConnectionError):  # the runner is dead as well
            self._server.sendall(b"".join(b"gone %d\n" % pid for pid in self._lost))
        self._lost.clear()


def _receive_descriptor(connection: socket.socket) -> tuple[bytes, int]:
    """One byte and the descriptor that came with it (-1 for none); no byte at the end."""
    try:
        data, received, _, _ = socket.recv_fds(connection, 1, 1)
    except ConnectionError:
        return b"", -1
    for descriptor in received:
        os.set_inheritable(descriptor, False)
    return data, received[0] if received else -1


def _supervise(control: socket.socket) -> None:
    """Life of a supervisor: one tree after the other, until the runner closes the socket."""
    if LINUX:
        _prctl(_PR_SET_NAME, b"studio-superv")
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    children = _Children()
    while True:
        order, output = _receive_descriptor(control)
        if not order:
            return
        if order != SPAWN:  # meant for the tree that has just ended by itself
            continue
        request = _receive_request(control)
        if request is None:
            return
        tree = _Tree(control, children, request)
        if tree.start(output):
            tree.attend()


def _receive_request(control: socket.socket) -> "_Request | None":
    """None when the runner went away in the middle of it."""
    head = control.recv(LENGTH.size, socket.MSG_WAITALL)
    length = LENGTH.unpack(head)[0] if len(head) == LENGTH.size else 0
    body = control.recv(length, socket.MSG_WAITALL)
    return _Request(**json.loads(body)) if body and len(body) == length else None


class _Request:
    """What a supervisor is to start; `limits` as (resource, soft, hard).

    `join` are files of control groups, where a 0 makes a member; `birth` is the group that the script is forked
    into where that can be done; `kill` what is to be written where to end all members; `oom_score` how willingly
    the kernel, short of memory, takes it; `helpers` the names of programs that are killed with the rest but not
    asked to end.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the fields of the JSON object
        self,
        argv: list[str],
        env: dict[str, str],
        cwd: str,
        limits: list[tuple[int, int, int]],
        oom_score: int,
        join: list[str],
        birth: str,
        kill: list[tuple[str, str]],
        helpers: list[str],
    ) -> None:
        self.argv, self.env, self.cwd, self.limits = argv, env, cwd, limits
        self.oom_score, self.join, self.birth, self.kill = oom_score, join, birth, kill
        self._entered = ""
        self._helpers = [name.encode() + b"\n" for name in helpers]

    def fork(self) -> int:
        """As `os.fork`; the child is to call `enter`."""
        born = _fork_into(self.birth) if self.birth else None
        if born is None:
            return os.fork()
        self._entered = self.birth
        return born

    def enter(self) -> None:
        """Become a member of the groups that it was not born into. OSError."""
        for path in self.join:
            if os.path.dirname(path) != self._entered:
                _write(path, "0")

    def asked(self, pids: list[int]) -> list[int]:
        """Those that are told when the tree is to end: what serves the others their files must outlast them."""
        if not self._helpers:
            return pids
        return [pid for pid in pids if _content(f"/proc/{pid}/comm") not in self._helpers]

    def kill_groups(self) -> None:
        """Best effort: the rounds of signals end the tree as well, if it does not fork faster."""
        for path, value in self.kill:
            with contextlib.suppress(OSError):
                _write(path, value)

    def remove_groups(self) -> None:
        """For a runner that is dead; its next start would do it, whenever that is."""
        for path in self.join:
            group = os.path.dirname(path)
            with contextlib.suppress(OSError):
                os.rmdir(group)
                os.rmdir(os.path.dirname(group))  # the runner's own, unless others are still in it


def _fork_into(group: str) -> "int | None":
    """Fork straight into a group of version 2; None where the kernel, or what filters its calls, does not let us.

    To move a process there later has all processors wait for each other: ten milliseconds for every script.
    """
    try:
        directory = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    arguments = _CLONE_ARGUMENTS.pack(_CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, directory)
    try:
        pid: int = _libc_holding_on().syscall(_CLONE3, arguments, ctypes.c_size_t(len(arguments)))
    finally:
        os.close(directory)
    return None if pid < 0 else pid


def _write(path: str, value: str) -> None:
    with open(path, "r+b", buffering=0) as file:
        file.write(value.encode())


class _Tree:
    """One script and all that it forks."""

    def __init__(self, control: socket.socket, children: _Children, request: _Request) -> None:
        self._control = control
        self._children = children
        self._request = request
        self._main = 0
        self._status: int | None = None
        self._linger_until = 0.0
        self._terminating = False
        self._killing = False
        self._left_behind = 0
        self._peak_memory = 0
        self._cpu_seconds = 0.0

    def start(self, output: int) -> bool:
        """Fork and execute; the pipe closes by itself when the execution worked and tells what failed when not."""
        supervisor = os.getpid()
        read, write = os.pipe()
        try:
            self._main = self._request.fork()
            if self._main == 0:
                _execute(self._request, output, write, supervisor)
        except OSError as error:
            os.write(write, _line({"error": error.errno, "at": "fork"}))
        finally:
            os.close(write)
            os.close(output)
        failure = os.read(read, 4096)
        os.close(read)
        if not failure:
            _answer(self._control, {"pid": self._main, "supervisor": supervisor})
            return True
        if self._main:
            os.waitpid(self._main, 0)
        with contextlib.suppress(ConnectionError):
            self._control.sendall(failure)
        return False

    def attend(self) -> None:
        """Obey the control socket until no descendant is left, then report."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._children.descriptor, select.POLLIN)
        orphaned = False
        while True:
            ready = dict(poll.poll(self._patience()))
            if not self._collect():
                break
            if self._control.fileno() in ready and not self._obey():
                poll.unregister(self._control)
                orphaned = True
            if self._status is not None and not self._terminating and time.monotonic() >= self._linger_until:
                self._killing = True
            if self._killing:
                self._signal(signal.SIGKILL)
        if not LINUX:
            self._signal(signal.SIGKILL)
        if orphaned:
            self._request.remove_groups()
        self._report()

    def _report(self) -> None:
        _answer(
            self._control,
            {
                "status": self._status,
                "peak_memory": self._peak_memory,
                "cpu_seconds": self._cpu_seconds,
                "left_behind": self._left_behind,
            },
        )

    def _patience(self) -> float | None:
        """Milliseconds until something is due without being told."""
        if self._killing:
            return _RETRY_MS
        if self._status is None or self._terminating:
            return None
        return max(0.0, self._linger_until - time.monotonic()) * 1000 + 1

    def _collect(self) -> bool:
        ended, more = self._children.collect()
        for pid, (status, usage) in ended.items():
            self._peak_memory = max(self._peak_memory, usage.ru_maxrss * _MAXRSS_UNIT)
            self._cpu_seconds += usage.ru_utime + usage.ru_stime
            if pid == self._main:
                self._status = status
                self._linger_until = time.monotonic() + _LINGER
            elif self._killing and status == signal.SIGKILL:
                self._left_behind += 1
        return more

    def _obey(self) -> bool:
        try:
            orders = self._control.recv(64)
        except ConnectionError:
            orders = b""
        if KILL in orders or not orders:
            self._killing = True
        elif TERMINATE in orders:
            self._terminating = True
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)  # one that was stopped could not act on it
        return bool(orders)

    def _signal(self, number: int) -> None:
        """To every process of the tree; elsewhere than on Linux the script's group is all that can be reached."""
        if number == signal.SIGKILL:
            self._request.kill_groups()
        if LINUX:
            pids = _frozen() if number == signal.SIGKILL else descendants(os.getpid())
            _kill(self._request.asked(pids) if number == signal.SIGTERM else pids, number)
        if not LINUX or (number == signal.SIGKILL and self._status is None):
            _kill([-self._main], number)  # at once for a whole group, so nothing in it can fork away


def _answer(control: socket.socket, message: dict[str, object]) -> None:
    with contextlib.suppress(ConnectionError):  # the runner is dead: nobody to tell
        control.sendall(_line(message))


def _line(message: dict[str, object]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _execute(request: _Request, output: int, report: int, supervisor: int) -> None:
    """In the child: become the script. Descriptors beyond 0, 1 and 2 close themselves on execution."""
    at = "group"
    try:
        request.enter()
        at = "prepare"
        os.setsid()
        if LINUX:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != supervisor:  # it died before the line above took effect
                os._exit(1)
            _raise_oom_score(request.oom_score)
        for number in _SHIELDED:
            signal.signal(number, signal.SIG_DFL)
        os.umask(0o022)
        for kind, soft, hard in request.limits:
            resource.setrlimit(kind, (soft, hard))
        os.dup2(output, 1)
        os.dup2(output, 2)
        at = "cwd"
        os.chdir(request.cwd)
        at = "execute"
        os.execve(request.argv[0], request.argv, request.env)  # noqa: S606 - a shell is what we do not want
    except (OSError, ValueError) as error:
        failure = {"error": getattr(error, "errno", None), "at": at, "message": str(error)[:500]}
        os.write(report, _line(failure))
    finally:
        os._exit(127)


def _raise_oom_score(score: int) -> None:
    """Best effort: where a container forbids it, the runner shares the script's risk."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
        if int(file.read()) < score:  # an orchestrator may have set more
            file.write(b"%d" % score)


if __name__ == "__main__":
    main(int(sys.argv[1]))
