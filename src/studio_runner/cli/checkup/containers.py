"""Whether experiments can run in containers here: the runtime, this account's rights, images, GPUs, network."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from studio_runner.cli.checkup.finding import Finding, Here, ok, problem, warning
from studio_runner.errors import EnvironmentFailedError

_USERNS = (
    Path("/proc/sys/kernel/unprivileged_userns_clone"),
    Path("/proc/sys/user/max_user_namespaces"),
)
_APPARMOR = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_MOUNTERS = ("squashfuse_ll", "squashfuse")
_CARDS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))


def containers(here: Here) -> Iterator[Finding]:
    """Whether a container starts, tried with an empty one; without a runtime nothing else matters."""
    settings = here.settings.containers
    if settings.use == "refused":
        yield ok("containers", "experiments that bring one are left to other runners (--containers refused)")
        return
    try:
        said, trouble = asyncio.run(tried(here))
    except EnvironmentFailedError as error:
        kind = problem if settings.require else warning
        yield kind("containers", f"{error}; experiments that bring one are left to others", error.hint or "")
        return
    if trouble is not None:
        yield problem("containers", f"{said}: {trouble}", trouble.hint or "")
        yield from _namespaces()
        return
    how = "root without capabilities" if os.geteuid() == 0 else f"user {os.geteuid()}"
    yield ok("containers", f"{said} runs them, as {how}, with {_network(network=settings.network)}")
    yield from _images(here)
    yield from _cards(here)


async def tried(here: Here) -> tuple[str, EnvironmentFailedError | None]:
    """As `try_out`, with what this runner would use."""
    from studio_runner.environments.containers.readiness import try_out
    from studio_runner.environments.containers.runtime import Runtimes
    from studio_runner.environments.programs import Programs
    from studio_runner.process.spawn import Spawner

    settings = here.settings.containers
    with tempfile.TemporaryDirectory(prefix="studio-runner-check-") as directory:
        async with Spawner() as spawner:
            runtimes = Runtimes(Programs(spawner), settings.runtime, here.environ)
            return await try_out(runtimes, Path(directory), network=settings.network)


def _network(*, network: bool) -> str:
    return "this machine's network" if network else "no network (--no-container-network)"


def _namespaces() -> Iterator[Finding]:
    """What an ordinary user needs."""
    if os.geteuid() == 0:
        return
    for path in _USERNS:
        if path.exists() and path.read_text().strip() == "0":
            yield problem("user namespaces", f"they are switched off: {path} is 0", f"Write 1 or more to {path}.")
    if _APPARMOR.exists() and _APPARMOR.read_text().strip() == "1":
        yield problem(
            "user namespaces",
            "AppArmor allows them only to programs that have a profile",
            "Install the runtime from a package that brings its profile.",
        )


def _images(here: Here) -> Iterator[Finding]:
    """How SIF files are mounted."""
    if os.geteuid() == 0:
        yield ok("container images", "image files are mounted by the kernel")
        return
    found = next((path for name in _MOUNTERS if (path := shutil.which(name))), None)
    if found and os.access("/dev/fuse", os.R_OK | os.W_OK):
        yield ok("container images", f"image files are mounted with {found}")
        return
    why = "squashfuse is not installed" if not found else "/dev/fuse cannot be used"
    if here.settings.containers.unpack == "never":
        mend = "Install squashfuse, or leave out --unpack-images never."
        yield warning("container images", f"image files are unpacked at every start: {why}", mend)
    else:
        yield ok("container images", f"image files are unpacked once, since {why}")


def _cards(here: Here) -> Iterator[Finding]:
    """What `--nv` looks for libraries with."""
    if here.settings.machine.cpu_only or not any(path.exists() for path in _CARDS):
        return
    if any(shutil.which(name, path="/usr/sbin:/sbin:/usr/bin") for name in ("nvidia-container-cli", "ldconfig")):
        yield ok("containers with GPUs", "the driver's libraries are found with ldconfig")
    else:
        yield problem(
            "containers with GPUs",
            "neither ldconfig nor nvidia-container-cli is here to find the driver's libraries",
            "Install libc-bin, or NVIDIA's container toolkit.",
        )
