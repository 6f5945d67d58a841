"""A directory as an archive: the same content gives the same bytes, on every machine.

Names are sorted, times and owners are nobody's, modes are 644 or 755. The hash of an archive is its name in the
store, so an unchanged directory is stored once however often it is submitted.
"""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from studio_runner.client.ignore import IGNORE_FILE, IgnoreRules
from studio_runner.errors import UsageError
from studio_runner.messages.units import format_size
from studio_runner.storage import tar
from studio_runner.storage.base import CHUNK

_IN_MEMORY = 8 << 20

DEFAULT_LIMIT = 1_000_000_000
"""Bytes; code is rarely a hundredth of it, and data belongs into artifacts of its own."""


@dataclass(frozen=True)
class Member:
    """One file, directory or symbolic link of the package; `path` is relative with slashes."""

    path: str
    source: Path
    size: int
    mode: int
    link: str | None = None

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


@dataclass(frozen=True)
class Package:
    """What travels, and what a person should know was left behind for other reasons than the ignore rules."""

    root: Path
    members: tuple[Member, ...]
    notes: tuple[str, ...] = ()
    replaced: Mapping[str, bytes] = field(default_factory=dict)
    """Contents that stand in for those of files (hyperparameters are written into the script)."""

    @property
    def size(self) -> int:
        return sum(member.size for member in self.members)

    def has_file(self, path: str) -> bool:
        return any(member.path == path and not member.is_directory for member in self.members)

    def with_content(self, path: str, content: bytes) -> "Package":
        """The same package with another content for one of its files."""
        return Package(self.root, self.members, self.notes, {**self.replaced, path: content})


@dataclass(frozen=True)
class Archive:
    """A package's bytes in a temporary file that vanishes with its closing, and their SHA-256."""

    file: IO[bytes]
    digest: str
    size: int


def workspace(root: Path, limit: int = DEFAULT_LIMIT) -> Package:
    """What is under `root` and not ignored; UsageError when it is more than `limit` bytes (0: no limit)."""
    found = _collect(root, IgnoreRules.of_workspace(root))
    if limit and found.size > limit:
        raise _too_large(found, limit)
    return found


def data(path: Path) -> Package:
    """A directory of data, or a single file; only its own ignore file leaves anything behind."""
    if path.is_dir():
        return _collect(path, IgnoreRules.of_data(path))
    if not path.exists():
        raise UsageError(f"There is nothing at {path} to capture")
    return Package(path.parent, (_file(path, path.name, path.stat()),))


def archive(found: Package) -> Archive:
    """Write the package as a tar archive."""
    spool = tempfile.SpooledTemporaryFile(_IN_MEMORY, "w+b", prefix="studio-runner-")  # noqa: SIM115  the caller's
    digest = hashlib.sha256()
    try:
        for piece in _pieces(found):
            digest.update(piece)
            spool.write(piece)
        size = spool.tell()
        spool.seek(0)
    except BaseException:
        spool.close()
        raise
    return Archive(spool, digest.hexdigest(), size)


def script_in(found: Package, filename: str) -> str:
    """The script's name inside the package; UsageError, saying why, when it would not travel."""
    path = Path(os.path.normpath(found.root / filename))
    try:
        name = path.relative_to(found.root).as_posix()
    except ValueError:
        raise UsageError(
            f"The script {filename} is outside the working directory {found.root}",
            hint="Change into the project's directory first: it is what travels.",
        ) from None
    if found.has_file(name):
        return name
    if path.is_file():
        raise UsageError(
            f"The script {name} is left behind by the ignore rules", hint=f"Add `!{name}` to {IGNORE_FILE}."
        )
    raise UsageError(f"There is no script {name} in {found.root}", hint=_near(found, name))


def _pieces(found: Package) -> Iterator[bytes]:
    for member in found.members:
        if member.link is not None:
            yield _header(member, tar.SYMLINK, 0, os.fsencode(member.link))
        elif member.is_directory:
            yield _header(member, tar.DIRECTORY, 0)
        elif (content := found.replaced.get(member.path)) is not None:
            yield _header(member, tar.FILE, len(content)) + content + bytes(tar.padding(len(content)))
        else:
            yield _header(member, tar.FILE, member.size)
            yield from _content(member)
    yield tar.END


def _header(member: Member, kind: bytes, size: int, target: bytes = b"") -> bytes:
    name = os.fsencode(member.path) + (b"/" if kind == tar.DIRECTORY else b"")
    return tar.encode(tar.Member(name, kind, stat.S_IMODE(member.mode), size, 0, target))


def _content(member: Member) -> Iterator[bytes]:
    """Exactly as many bytes as the header announced."""
    left = member.size
    try:
        with member.source.open("rb", buffering=0) as file:
            while piece := file.read(min(max(left, 1), CHUNK)):
                left -= len(piece)
                if left < 0:
                    break
                yield piece
    except OSError as error:
        raise UsageError(f"{member.source} cannot be packaged: {error.strerror}") from error
    if left:
        raise UsageError(f"{member.source} changed while it was packaged", hint="Submit again when it rests.")
    yield bytes(tar.padding(member.size))


def _collect(root: Path, rules: IgnoreRules) -> Package:
    notes: list[str] = []
    try:
        members = sorted(_walk(root, rules, notes), key=lambda member: member.path)
    except OSError as error:
        raise UsageError(
            f"The directory cannot be packaged: {error.filename}: {error.strerror}",
            hint=f"Make it readable, or name it in {IGNORE_FILE}.",
        ) from error
    return Package(root, tuple(members), tuple(notes))


def _walk(root: Path, rules: IgnoreRules, notes: list[str]) -> Iterator[Member]:
    stack = [(root, "")]
    while stack:
        directory, prefix = stack.pop()
        for entry in os.scandir(directory):
            path = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if rules.ignores_directory(path, Path(entry.path)):
                    continue
                stack.append((Path(entry.path), f"{path}/"))
                yield Member(path, Path(entry.path), 0, stat.S_IFDIR | 0o755)
            elif not rules.ignores_file(path) and (member := _member(entry, path, root, notes)):
                yield member


def _member(entry: os.DirEntry[str], path: str, root: Path, notes: list[str]) -> Member | None:
    if entry.is_symlink():
        return _link(entry, path, root, notes)
    status = entry.stat(follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        notes.append(f"left out {path}: neither a file nor a directory")
        return None
    return _file(Path(entry.path), path, status)


def _file(source: Path, name: str, status: os.stat_result) -> Member:
    mode = 0o755 if status.st_mode & 0o111 else 0o644
    return Member(name, source, status.st_size, stat.S_IFREG | mode)


def _link(entry: os.DirEntry[str], path: str, root: Path, notes: list[str]) -> Member | None:
    """A link inside the directory stays one; where it leads out, there would be nothing at the other end."""
    target = os.readlink(entry.path)  # noqa: PTH115  the text as it is
    lands = os.path.normpath(PurePosixPath(path).parent / target)
    if target.startswith("/") or lands == ".." or lands.startswith("../"):
        notes.append(
            f"left out {path}: the link leads out of {root} (--capture-once {target}:LABEL takes data along)"
        )
        return None
    return Member(path, Path(entry.path), 0, stat.S_IFLNK | 0o777, target)


def _too_large(found: Package, limit: int) -> UsageError:
    offenders = ", ".join(f"{name} {format_size(size)}" for name, size in _largest(found.members))
    return UsageError(
        f"The working directory {found.root} is {format_size(found.size)}, more than the {format_size(limit)} that "
        f"a package may have. The largest in it: {offenders}",
        hint=f"Name what the experiment does not need in {IGNORE_FILE}, give it data with "
        "--capture-once DIR:LABEL, or raise --workspace-limit.",
    )


def _largest(members: Sequence[Member], count: int = 5) -> list[tuple[str, int]]:
    """Entries of the top level with what is in them, the largest first."""
    sums: dict[str, int] = {}
    for member in members:
        top, slash, _ = member.path.partition("/")
        name = f"{top}/" if slash or member.is_directory else top
        sums[name] = sums.get(name, 0) + member.size
    return sorted(sums.items(), key=lambda item: -item[1])[:count]


def _near(found: Package, name: str) -> str | None:
    import difflib  # noqa: PLC0415  only on the way out

    files = [member.path for member in found.members if member.path.endswith(".py")]
    near = difflib.get_close_matches(name, files, n=1)
    return f"Did you mean {near[0]}?" if near else None
