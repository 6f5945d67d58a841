"""The machine and its kernel: what experiments may have, and what keeps them in hand."""

import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from studio_runner.cli.checkup.finding import Finding, Here, ok, problem, warning
from studio_runner.errors import ConfigError
from studio_runner.messages.units import format_size

FILES = 1024
"""Open files that a runner with a handful of experiments is well with."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def share(here: Here) -> Iterator[Finding]:
    """What experiments may use together."""
    from studio_runner.machine.inventory import inventory

    has = inventory(here.settings.machine, here.settings.places.working_dir)
    yield ok(
        "machine",
        f"experiments may have {has.cores} cores, {format_size(has.memory)} memory, {format_size(has.disk)} disk",
    )


def processes(_here: Here) -> Iterator[Finding]:
    """What makes sure that no process outlives its experiment."""
    if sys.platform != "linux":
        yield warning(
            "processes",
            "this system cannot bind processes to their parent's life",
            "What a script leaves in the background may survive it; use Linux where that matters.",
        )
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for what, option in (("death signals", _PR_SET_PDEATHSIG), ("subreapers", _PR_SET_CHILD_SUBREAPER)):
        if libc.prctl(option, 0, 0, 0, 0) != 0:
            yield problem(
                "processes",
                f"the kernel refuses {what}: {os.strerror(ctypes.get_errno())}",
                "Allow the system call prctl in the container's seccomp profile.",
            )
            return
    if not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists():
        yield problem(
            "processes",
            "/proc does not list the children of a process",
            "Mount /proc, and use a kernel with CONFIG_PROC_CHILDREN.",
        )
        return
    yield ok("processes", "no process outlives its experiment (death signals, subreapers, /proc)")


def inotify(_here: Here) -> Iterator[Finding]:
    """New messages are noticed at once."""
    if sys.platform != "linux":
        yield warning("inotify", "not on this system", "Queues are looked at every --poll seconds.")
        return
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_CLOEXEC)
    if descriptor < 0:
        yield warning(
            "inotify",
            f"cannot be used: {os.strerror(ctypes.get_errno())}; messages are noticed only every --poll seconds",
            "Raise the limit: sysctl fs.inotify.max_user_instances=1024",
        )
        return
    os.close(descriptor)
    yield ok("inotify", "new messages are noticed at once")


def open_files(_here: Here) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FILES:
        yield warning("open files", f"at most {soft} (at most {hard} can be had)", f"Run: ulimit -n {FILES}")
    else:
        yield ok("open files", "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft}")


def http(here: Here) -> Iterator[Finding]:
    """Whether `start` could listen where it is told to; a runner that does already says what it has reserved."""
    from studio_runner.cli.checkup.reserved import reservations
    from studio_runner.web.binding import AddressInUseError, listen

    configured = here.settings.http
    if not configured.address:
        return
    try:
        listening = listen(configured)
    except AddressInUseError:
        yield from reservations(configured)
    except ConfigError as error:
        yield problem("HTTP", str(error), error.hint or "")
    else:
        listening.sock.close()
        yield ok("HTTP", f"{configured.address} is free")
