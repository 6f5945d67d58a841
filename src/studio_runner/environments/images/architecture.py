"""Which machines an image is made for, and which one this is."""

import os
import platform
import stat
import struct
from pathlib import Path

from studio_runner.errors import ArtifactInvalidError

_SIF = {
    b"01": "i386", b"02": "amd64", b"03": "arm", b"04": "arm64", b"05": "ppc64", b"06": "ppc64le", b"07": "mips",
    b"08": "mipsle", b"09": "mips64", b"10": "mips64le", b"11": "s390x", b"12": "riscv64",
}  # fmt: skip
_ELF = {3: "i386", 8: "mips", 21: "ppc64", 22: "s390x", 40: "arm", 62: "amd64", 183: "arm64", 243: "riscv64"}
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "i386"}
_RUNS_TOO = {"amd64": {"i386"}, "arm64": {"arm"}}
_PROGRAMS = ("bin/sh", "usr/bin/env", "bin/busybox", "usr/bin/python3", "usr/local/bin/python3", "bin/bash")
_LINKS = 40


def this_machine() -> str:
    """As Docker spells it: amd64, arm64, ..."""
    machine = platform.machine()
    return _MACHINES.get(machine, machine)


def of_sif(code: bytes) -> str | None:
    """By the two digits in the header of a SIF file; None when it does not say."""
    return _SIF.get(code)


def of_sandbox(root: Path) -> str | None:
    """By the first program that is there; None when there is none to tell it."""
    for name in _PROGRAMS:
        found = inside(root, name)
        if found is not None and (architecture := _of_program(found)):
            return architecture
    return None


def require_runnable(architecture: str | None) -> None:
    """ArtifactInvalidError when images of this architecture do not run here; what is unknown is tried."""
    here = this_machine()
    if architecture is None or architecture == here or architecture in _RUNS_TOO.get(here, ()):
        return
    raise ArtifactInvalidError(
        f"is made for {architecture} machines, and this one is {here}",
        hint=f"build the image for {here}, or send the experiment to a queue of {architecture} machines",
    )


def inside(root: Path, name: str) -> Path | None:
    """The file that `name` means to a program whose root directory is `root`: no link leads out. None: there is
    none."""
    steps, links = name.split("/")[::-1], 0
    place: list[str] = []
    while steps:
        step = steps.pop()
        if step in ("", "."):
            continue
        if step == "..":
            place = place[:-1]
            continue
        try:
            path = root.joinpath(*place, step)
            mode = path.lstat().st_mode
        except (OSError, ValueError):
            return None
        if not stat.S_ISLNK(mode):
            place.append(step)
            continue
        links += 1
        if links > _LINKS:
            return None
        target = os.readlink(path)  # noqa: PTH115 - as text
        place = [] if target.startswith("/") else place
        steps.extend(target.split("/")[::-1])
    return root.joinpath(*place)


def _of_program(path: Path) -> str | None:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
        with path.open("rb") as file:
            head = file.read(20)
    except OSError:
        return None
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return None
    little = head[5] == 1
    (machine,) = struct.unpack_from("<H" if little else ">H", head, 18)
    name = _ELF.get(machine, f"ELF machine {machine}")
    return f"{name}le" if little and name in ("ppc64", "mips") else name
