"""What came: a SIF file, a sandbox, something that can be made one, or no image at all."""

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from studio_runner.environments.images import architecture
from studio_runner.errors import ArtifactInvalidError

_SHOWN = 8
_DEPTH = 4
_HEAD = 2048
_SIF_MAGIC = b"SIF_MAGIC\0"
_SIF_AT = 32
_SIF_ARCHITECTURE = _SIF_AT + len(_SIF_MAGIC) + 3
_SIF_DATA = 112
_LAUNCH = b"#!/usr/bin/env run-singularity\n"
_SQUASHFS = b"hsqs"
_EXT_AT, _EXT_MAGIC = 1080, b"\x53\xef"
_ROOTS = ("usr", "etc", "lib", "opt", "var")
_NOT_AN_IMAGE = (
    "an image is a SIF file, or a directory with a whole root file system (a sandbox), or a tar of either"
)

Form = Literal["sif", "squashfs", "sandbox"]


@dataclass(frozen=True)
class Found:
    """`squashfs` is what Singularity 2 built: to be unpacked into a sandbox."""

    path: Path
    form: Form


def look(path: Path, depth: int = _DEPTH) -> Found:
    """The image that `path` is, or that is alone in this directory, as archives have it, or in the only one there.

    ArtifactInvalidError: none, one that nobody can run, or one for another machine.
    """
    status = path.lstat()
    if stat.S_ISREG(status.st_mode):
        return _file(path)
    if _is_sandbox(path):
        architecture.require_runnable(architecture.of_sandbox(path))
        return Found(path, "sandbox")
    names = sorted(os.listdir(path))  # noqa: PTH208 - names only
    if depth and len(names) == 1 and not (path / names[0]).is_symlink():
        return look(path / names[0], depth - 1)
    raise ArtifactInvalidError(f"is no image: {_described(path, names)}", hint=_NOT_AN_IMAGE)


def _file(path: Path) -> Found:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head[_SIF_AT : _SIF_AT + len(_SIF_MAGIC)] == _SIF_MAGIC:
        return _sif(path, head)
    bare = head.removeprefix(_LAUNCH)
    if bare.startswith(_SQUASHFS):
        return Found(path, "squashfs")
    if bare[_EXT_AT : _EXT_AT + 2] == _EXT_MAGIC:
        raise ArtifactInvalidError(
            "is an ext3 image, which can be written to and cannot be shared by experiments",
            hint="make a SIF image of it: apptainer build IMAGE.sif IMAGE.img",
        )
    what = f"starts with {head[:8]!r}" if head else "is empty"
    raise ArtifactInvalidError(f"is no image: the file {path.name} {what}", hint=_NOT_AN_IMAGE)


def _sif(path: Path, head: bytes) -> Found:
    """Its header says for which machine it is, and where its data ends."""
    code = head[_SIF_ARCHITECTURE : _SIF_ARCHITECTURE + 2]
    architecture.require_runnable(architecture.of_sif(code))
    size = path.stat().st_size
    start, length = struct.unpack_from("<2q", head, _SIF_DATA) if len(head) >= _SIF_DATA + 16 else (0, 0)
    if not 0 < start + length <= size:
        raise ArtifactInvalidError(
            f"is a damaged SIF image: it has {size:,} bytes and says that its data ends at {start + length:,}",
            hint="store the image again",
        )
    return Found(path, "sif")


def _is_sandbox(path: Path) -> bool:
    if (path / ".singularity.d").is_dir():
        return True
    shell = (path / "bin/sh").is_symlink() or architecture.inside(path, "bin/sh") is not None
    return shell and any((path / name).is_dir() for name in _ROOTS)


def _described(path: Path, names: list[str]) -> str:
    if (path / "oci-layout").exists():
        return "it is a directory of OCI blobs (oci-layout)"
    if (path / "manifest.json").exists() and (path / "repositories").exists():
        return "it is an archive of Docker's (docker save)"
    listed = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"it holds {listed}" if names else "it holds nothing"
