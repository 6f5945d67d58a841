"""A directory as an archive: the same content gives the same bytes, on every machine.

Names are sorted, times and owners are nobody's, modes are 644 or 755. The hash of an archive is its name in the
store, so an unchanged directory is stored once however often it is submitted.
"""

import difflib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from studio_runner.client.ignore import IGNORE_FILE, IgnoreRules
from studio_runner.errors import ArtifactInvalidError, UsageError
from studio_runner.messages.units import format_size
from studio_runner.storage import tar
from studio_runner.storage.archive import Note, pack
from studio_runner.storage.extract import ARTIFACT, ROOT_FILE_SYSTEM, Rules
from studio_runner.storage.scan import Keep, walk

DEFAULT_LIMIT = 1_000_000_000
"""Bytes; code is rarely a hundredth of it, and data belongs into artifacts of its own."""

_IN_MEMORY = 8 << 20


@dataclass(frozen=True)
class Package:
    """What is to travel: whatever `keep` lets pass under `root`."""

    root: Path
    keep: Keep
    files: Mapping[str, int]
    """Sizes by path."""
    replaced: Mapping[str, bytes] = field(default_factory=dict)
    """Contents that stand in for those of files (hyperparameters are written into the script)."""
    rules: Rules = ARTIFACT
    """What links may be."""

    @property
    def size(self) -> int:
        return sum(self.files.values())

    def with_content(self, path: str, content: bytes) -> "Package":
        """The same package with another content for one of its files."""
        return replace(self, replaced={**self.replaced, path: content})

    def without(self, files: Iterable[Path]) -> "Package":
        """The same package without those of `files` that are in it, links followed; no rule takes them back."""
        root = Path(os.path.realpath(self.root))
        places = [Path(os.path.realpath(file)) for file in files]
        out = {place.relative_to(root).as_posix() for place in places if place.is_relative_to(root)}

        def keep(path: str, is_directory: bool) -> bool:  # noqa: FBT001  the seam's signature
            return path not in out and self.keep(path, is_directory)

        return replace(self, keep=keep, files={path: size for path, size in self.files.items() if path not in out})


@dataclass(frozen=True)
class Archive:
    """A package's bytes in a temporary file that vanishes with its closing, and their SHA-256."""

    file: IO[bytes]
    digest: str
    size: int


def workspace(root: Path, limit: int = DEFAULT_LIMIT) -> Package:
    """What is under `root` and not ignored; UsageError when it is more than `limit` bytes (0: no limit)."""
    found = _collect(root, IgnoreRules.of_workspace(root).keeps(root))
    if limit and found.size > limit:
        raise _too_large(found, limit)
    return found


def data(path: Path) -> Package:
    """A directory of data, or a single file; only its own ignore file leaves anything behind."""
    if path.is_dir():
        return _collect(path, IgnoreRules.of_data(path).keeps(path))
    if not path.is_file():
        raise UsageError(f"There is nothing at {path} to capture")
    return _collect(path.parent, lambda name, _is_directory: name == path.name)


def image(path: Path) -> Package:
    """A container image: a file, or the directory of a sandbox, with everything that is in it."""
    if path.is_dir():
        return replace(_collect(path, lambda _name, _is_directory: True), rules=ROOT_FILE_SYSTEM)
    if not path.is_file():
        raise UsageError(f"There is no container image at {path}")
    return data(path)


def archive(found: Package, note: Note) -> Archive:
    """Write the package as a tar archive; `note` is told of what cannot travel (links that lead out, sockets)."""
    spool = tempfile.SpooledTemporaryFile(_IN_MEMORY, "w+b", prefix="studio-runner-")  # noqa: SIM115  the caller's
    digest = hashlib.sha256()
    try:
        for piece in _pieces(found, note):
            digest.update(piece)
            spool.write(piece)
        size = spool.tell()
        spool.seek(0)
    except ArtifactInvalidError as error:
        spool.close()
        raise _unreadable(found.root, error) from error
    except BaseException:
        spool.close()
        raise
    return Archive(spool, digest.hexdigest(), size)


def script_in(found: Package, filename: str) -> str:
    """The script's name inside the package; UsageError, saying why, when it would not travel."""
    path = Path(os.path.normpath(found.root / filename))
    if not path.is_relative_to(found.root):
        raise UsageError(
            f"The script {filename} is outside the working directory {found.root}",
            hint="Change into the project's directory first: it is what travels.",
        )
    name = path.relative_to(found.root).as_posix()
    if not path.is_file():
        near = difflib.get_close_matches(name, [file for file in found.files if file.endswith(".py")], n=1)
        raise UsageError(
            f"There is no script {name} in {found.root}", hint=f"Did you mean {near[0]}?" if near else None
        )
    if name not in found.files:
        raise UsageError(
            f"The script {name} is left behind by the ignore rules", hint=f"Add `!{name}` to {IGNORE_FILE}."
        )
    return name


def _collect(root: Path, keep: Keep) -> Package:
    try:
        files = {
            os.fsdecode(found.path): found.status.st_size if stat.S_ISREG(found.status.st_mode) else 0
            for found in walk(root, keep)
            if not stat.S_ISDIR(found.status.st_mode)
        }
    except ArtifactInvalidError as error:
        raise _unreadable(root, error) from error
    return Package(root, keep, files)


def _pieces(found: Package, note: Note) -> Iterator[bytes]:
    """The replaced files come first, and the rest without them."""
    for path, content in sorted(found.replaced.items()):
        yield tar.encode(tar.Member(os.fsencode(path), tar.FILE, 0o644, len(content), 0))
        yield content + bytes(tar.padding(len(content)))

    def keep(path: str, is_directory: bool) -> bool:  # noqa: FBT001  the seam's signature
        return path not in found.replaced and found.keep(path, is_directory)

    yield from pack(found.root, mtime=0, keep=keep, note=note, rules=found.rules)


def _unreadable(root: Path, error: ArtifactInvalidError) -> UsageError:
    return UsageError(
        f"The directory {root} cannot be packaged: {error}",
        hint=f"Make it readable, or name it in {IGNORE_FILE}.",
    )


def _too_large(found: Package, limit: int) -> UsageError:
    offenders = ", ".join(f"{name} {format_size(size)}" for name, size in _largest(found.files))
    return UsageError(
        f"The working directory {found.root} is {format_size(found.size)}, more than the {format_size(limit)} that "
        f"a package may have. The largest in it: {offenders}",
        hint=f"Name what the experiment does not need in {IGNORE_FILE}, give it data with "
        "--capture-once DIR:LABEL, or raise --workspace-limit.",
    )


def _largest(files: Mapping[str, int], count: int = 5) -> list[tuple[str, int]]:
    """Entries of the top level with what is in them, the largest first."""
    sums: dict[str, int] = {}
    for path, size in files.items():
        top, slash, _ = path.partition("/")
        sums[top + slash] = sums.get(top + slash, 0) + size
    return sorted(sums.items(), key=lambda item: -item[1])[:count]
