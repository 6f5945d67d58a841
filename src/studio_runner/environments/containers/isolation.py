"""What a container sees of this machine, as options of the runtime.

The runtime gives it namespaces of its own (processes, mounts, System V IPC) and a root that is only read. What it
leaves open by itself is closed here. An ordinary user can do little harm with it; a container of root runs as root
without capabilities, and the kernel lets root, as the owner of the files, write to /proc/sys, /sys, the host's
/etc/hosts and the device nodes. docs/explanation/trust.md tells it for people.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from studio_runner.environments.containers.runtime import Runtime
from studio_runner.errors import EnvironmentFailedError

PRIVATE = ".container"
"""Beside the artifacts: home, /tmp and /var/tmp of a container, gone with the attempt's directory."""

SECCOMP = Path(__file__).with_name("seccomp.json")
"""System calls that are refused: kernel keys (which all processes of a user share), every way to mount, and what
only reaches for the kernel. New namespaces are not: without mounts they lead nowhere."""

_READ_ONLY = (
    *("/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi", "/proc/scsi", "/proc/asound"),
    *("/proc/sysrq-trigger", "/proc/mtrr", "/proc/latency_stats", "/proc/sched_debug", "/proc/pressure"),
    *("/sys/devices", "/sys/class", "/sys/bus", "/sys/dev", "/sys/block", "/sys/module"),
    *("/sys/kernel/mm", "/etc/hosts", "/etc/localtime"),
)
"""Of /sys only what programs look for (processors, cards, network interfaces, memory pages): a mount of all of it
would bring the host's control groups and debugging interfaces along, which stay writable."""

_HIDDEN = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/kmsg", "/proc/kpagecount", "/proc/kpageflags")
"""Memory and secrets of the kernel, for which an empty file stands."""

_NOT_MOUNTED = "hostfs,sys,bind-paths"
_ALWAYS = ("--containall", "--workdir", "--home", "--bind", "--pwd")
_AS_ROOT = ("--no-mount", "--no-privs", "--security")
_SEPARATORS = frozenset(":,\\")
"""Of the runtime's own notation for binds."""

_DEVICES_ONLY_READ = """\
mount -o rbind,ro /dev /dev || { echo "FATAL:   the device nodes cannot be protected"; exit 255; }
exec "$@"
"""
"""In a mount namespace of the launcher's own: the nodes that the runtime binds from there cannot be changed. They
can be used as always, that is decided by the device."""


@dataclass(frozen=True)
class Box:
    """What one container gets. `directory` is the attempt's, `read_only` what in it must not be changed, `shown`
    other directories that may be read; `vendor` of the GPUs, "" for none; `network`: the host's, or none."""

    directory: Path
    read_only: tuple[Path, ...] = ()
    shown: tuple[Path, ...] = ()
    vendor: str = ""
    network: bool = True

    @property
    def private(self) -> Path:
        return self.directory / PRIVATE


def launcher(runtime: Runtime, user: int) -> tuple[str, ...]:
    """What stands before the runtime for this user; EnvironmentFailedError when it could not keep containers in."""
    missing = [flag for flag in _ALWAYS if not runtime.has(flag)]
    if user == 0:
        missing += [flag for flag in _AS_ROOT if not runtime.has(flag)]
        missing += [] if runtime.bind_paths else ["--no-mount bind-paths"]
    if missing:
        raise EnvironmentFailedError(
            f"Containers cannot be kept off this machine with {runtime.said}: it has no {', '.join(missing)}",
            hint="Use a newer one" + (", or run the runner as an ordinary user." if user == 0 else "."),
        )
    return _with_devices_protected() if user == 0 else ()


def _with_devices_protected() -> tuple[str, ...]:
    unshare, shell = shutil.which("unshare"), shutil.which("sh")
    if unshare is None or shell is None or shutil.which("mount") is None:
        raise EnvironmentFailedError(
            "Containers of root cannot be kept off this machine without the programs unshare and mount",
            hint="Install util-linux, or run the runner as an ordinary user.",
        )
    return (unshare, "--mount", "--propagation", "slave", shell, "-c", _DEVICES_ONLY_READ, "sh")


def options(runtime: Runtime, box: Box, empty: Path) -> Iterator[str]:
    """Options of `exec` and `run`; `empty` is an empty file."""
    yield from ("--containall", "--home", str(box.private / "home"), "--workdir", str(box.private))
    yield from (flag for flag in ("--no-privs", "--no-eval") if runtime.has(flag))
    if runtime.has("--no-mount"):
        yield from ("--no-mount", _NOT_MOUNTED if runtime.bind_paths else "hostfs,sys")
    if runtime.has("--security"):
        yield from ("--security", f"seccomp:{SECCOMP}")
    if not box.network:
        yield from ("--net", "--network", "none")
    if box.vendor:
        yield "--rocm" if box.vendor == "amd" else "--nv"
    for bind in binds(box, empty):
        yield from ("--bind", bind)


def binds(box: Box, empty: Path) -> list[str]:
    """Shorter destinations first, so that none covers another. EnvironmentFailedError for a path that the runtime
    would take for several."""
    read_only = [(path, path) for path in _READ_ONLY if os.path.exists(path)]  # noqa: PTH110 - on every start
    read_only += [(str(empty), path) for path in _HIDDEN if os.path.exists(path)]  # noqa: PTH110
    read_only += [(str(path), str(path)) for path in (*box.read_only, *box.shown)]
    found = [(str(box.directory), str(box.directory), "rw"), *((*pair, "ro") for pair in read_only)]
    for source, _, _ in found:
        if _SEPARATORS & set(source):
            raise EnvironmentFailedError(
                f"{source} cannot be shown to a container: ':', ',' and '\\' in paths mean something else to it",
                hint="Give the artifact another label, or the runner another --working-dir.",
            )
    return [":".join(bind) for bind in sorted(found, key=lambda bind: len(bind[1]))]


def variables(runtime: Runtime, env: Mapping[str, str]) -> dict[str, str]:
    """What makes the runtime set `env` inside. Not options: everybody on the machine can read a command line.

    EnvironmentFailedError for a value that an old runtime would take for a piece of shell.
    """
    if not runtime.has("--no-eval"):
        for name, value in env.items():
            if set(value) & set('$`\\"'):
                raise EnvironmentFailedError(
                    f"The variable {name} cannot be handed to the container: {runtime.said} would expand its value",
                    hint='Leave out $, `, \\ and " in config.env, or use a newer runtime.',
                )
    return {f"{runtime.prefix}ENV_{name}": value for name, value in env.items()}
