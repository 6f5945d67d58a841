"""Apptainer or Singularity as this machine has it, and a small image for it made of this machine's own files."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from uv import find_uv_bin

from servers.process import MissingServerError

HINT = "scripts/install-test-servers installs it (root, Debian)"
TOOLS = ("dash", "cat", "cp", "df", "env", "false", "id", "kill", "ls", "mkdir", "mv", "nproc", "ps", "rm", "sleep",
         "touch", "true")  # fmt: skip
FOLDERS = ("dev", "proc", "sys", "tmp", "var/tmp", "root", "home", "run", "etc", "data", "opt", "mnt", "usr/bin",
           "usr/lib", "usr/lib64", "usr/sbin", "usr/local", ".singularity.d/env")  # fmt: skip
LEFT_OUT = ("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "pydoc_data", "lib2to3", "config-3*",
            "dist-packages", "site-packages", "__pycache__")  # fmt: skip
SCRIPTS = {
    ".singularity.d/runscript": '#!/bin/sh\necho "runscript: $*"\nexec python3 "$@"\n',
    ".singularity.d/env/90-environment.sh": "export IN_TEST_IMAGE=1\n",
    # Without a file of this name the variables of --env are ignored in silence.
    ".singularity.d/env/99-base.sh": "# variables of the run\n",
}
FILES = {
    ".singularity.d/labels.json": '{"org.example.image":"test"}\n',
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/os-release": 'PRETTY_NAME="test image"\nID=testimage\n',
    "etc/resolv.conf": "",
    "etc/hosts": "",
    "etc/localtime": "",
}


def runtime() -> Path:
    """Its program; MissingServerError where there is none."""
    for name in ("apptainer", "singularity"):
        if found := shutil.which(name):
            return Path(found)
    raise MissingServerError(f"neither apptainer nor singularity is installed: {HINT}")


def mounter() -> Path:
    """The program that mounts images for ordinary users; MissingServerError where there is none."""
    for name in ("squashfuse_ll", "squashfuse"):
        if found := shutil.which(name):
            return Path(found)
    raise MissingServerError("squashfuse is not installed: scripts/install-test-servers installs it (root, Debian)")


def make_sandbox(directory: Path) -> Path:
    """As `make_small_sandbox`, and with this interpreter: about 50 MB in a second or two."""
    make_small_sandbox(directory)
    _add_interpreter(directory)
    return directory


def make_small_sandbox(directory: Path) -> Path:
    """A minimal root with a shell and a few tools: 5 MB. `directory` must not exist; its parent must."""
    for folder in FOLDERS:
        (directory / folder).mkdir(parents=True)
    for name in ("tmp", "var/tmp"):
        (directory / name).chmod(0o1777)
    for name in ("bin", "sbin", "lib", "lib64"):
        (directory / name).symlink_to(f"usr/{name}")
    for tool in TOOLS:
        if found := shutil.which(tool):
            shutil.copy2(Path(found).resolve(), directory / "usr/bin" / tool)
    (directory / "usr/bin/sh").symlink_to("dash")
    _add_libraries(directory, [path for path in (directory / "usr/bin").iterdir() if not path.is_symlink()])
    for name, text in (SCRIPTS | FILES).items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755 if name in SCRIPTS else 0o644)
    (directory / "singularity").symlink_to(".singularity.d/runscript")
    return directory


def _add_interpreter(directory: Path) -> None:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    programs = directory / "usr/bin"
    shutil.copy2(Path(sys.executable).resolve(), programs / version)
    # As many images have them: an absolute link means the image's own root.
    (programs / "python3").symlink_to(f"/usr/bin/{version}")
    (programs / "python").symlink_to("python3")
    library = directory / "usr/lib" / version
    shutil.copytree(sysconfig.get_path("stdlib"), library, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
    # the installer runs in it as well, with what any but the smallest image has
    _add_libraries(directory, [programs / version, *library.glob("lib-dynload/*.so"), Path(find_uv_bin())])


def _add_libraries(directory: Path, binaries: Iterable[Path]) -> None:
    """What they are linked with."""
    for needed in _libraries(binaries):
        place = _place(needed)
        (directory / place.parent).mkdir(parents=True, exist_ok=True)
        shutil.copy2(needed.resolve(), directory / place)


def _libraries(binaries: Iterable[Path]) -> set[Path]:
    """What they are linked with, the loader included."""
    listed = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False, timeout=60)
    return set(_paths(listed.stdout))


def _paths(listing: str) -> Iterator[Path]:
    """From lines such as `libc.so.6 => /lib/libc.so.6 (0x...)` and `/lib64/ld-linux.so.2 (0x...)`."""
    for line in listing.splitlines():
        words = line.rpartition("=>")[2].split()
        if line[:1].isspace() and words and words[0].startswith("/"):
            yield Path(words[0])


def _place(library: Path) -> Path:
    """Where it is found in the image: a system's library where it was, one that came with an interpreter in lib."""
    parts = library.parts[1:]
    if parts[0] == "usr" and parts[1] in ("lib", "lib64"):
        return Path(*parts)
    if parts[0] in ("lib", "lib64"):
        return Path("usr", *parts)
    return Path("usr/lib", library.name)


def make_sif(sandbox: Path, image: Path) -> Path:
    """A SIF image of the sandbox."""
    command = [str(runtime()), "--silent", "build", "--mksquashfs-args", "-comp gzip -Xcompression-level 1"]
    env = {**os.environ, "APPTAINER_TMPDIR": str(image.parent), "SINGULARITY_TMPDIR": str(image.parent)}
    made = subprocess.run(
        [*command, str(image), str(sandbox)], env=env, capture_output=True, text=True, check=False, timeout=120
    )
    if made.returncode:
        raise MissingServerError(f"no image can be built here: {made.stderr.strip()}")
    return image
