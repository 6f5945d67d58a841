"""Writes an archive's members below one directory, whatever the archive says.

Every file is made relative to a descriptor of its parent, and parents are opened one name at a time with
O_NOFOLLOW: no link, however it came there, is ever walked through.
"""

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from studio_runner.errors import ArtifactInvalidError
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.links import confined
from studio_runner.storage.tar import DIRECTORY, FILE, HARDLINK, SYMLINK, Member

MEMBERS = 1_000_000
"""Files and directories of one archive; more would eat the disk's inodes."""

DEPTH = 256
"""Directories within each other; deeper trees are more than most programs can walk, or clean up."""

_PATH_LIMIT = 4096
_LATEST = (1 << 34) * 1_000_000_000
_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_NAME = (b"", b".", b"..")
_REFUSED = {
    b"3": "a device",
    b"4": "a device",
    b"6": "a named pipe",
    b"S": "a sparse file",
    b"M": "a part of a file",
}


@dataclass(frozen=True)
class Rules:
    """What an archive may hold. `link` is given the target of a symbolic link and how many directories deep that
    stands; it returns what is written, None to refuse. Members of the kinds `passed_over` are not unpacked."""

    link: Callable[[bytes, int], bytes | None] = confined
    passed_over: frozenset[bytes] = frozenset()


ARTIFACT = Rules()
"""Links stay inside, and there are no devices."""

ROOT_FILE_SYSTEM = Rules(lambda target, _: target or None, frozenset({b"3", b"4", b"6"}))
"""The tree becomes the root of a container: there absolute links lead into it, and devices come from the machine.
Nothing may follow a link of such a tree outside of one."""


class Extraction:
    """Sink of one archive; `directory` exists. A later member takes the place of an earlier one of its name."""

    def __init__(self, directory: Path, budget: DiskBudget, rules: Rules = ARTIFACT) -> None:
        self.member = b""
        self._budget = budget
        self._rules = rules
        self._made = 0
        self._root = os.open(directory, _ENTER)
        self._above: tuple[bytes, ...] = ()
        self._parent = self._root
        self._last: bytes | None = None  # the spelling that led to `_parent`
        self._file = -1
        self._mtime = 0
        self._makers = {HARDLINK: self._hardlink, SYMLINK: self._symlink}

    def start(self, member: Member) -> None:
        """Make the member; a file stays open for its data. ArtifactInvalidError, DiskExceededError, OSError."""
        self.member = member.name
        if member.kind in self._rules.passed_over:
            self._count()
            return
        name = self._enter_parent(member)
        self._count()
        if member.kind == FILE:
            self._budget.charge(member.size)
            self._file = self._replace(lambda: os.open(name, _CREATE, 0o600, dir_fd=self._parent), name)
            os.fchmod(self._file, member.mode & 0o777 | 0o600)
            self._mtime = min(max(member.mtime, 0), _LATEST)
        elif member.kind == DIRECTORY:
            if name:
                self._directory(name, member.mode)
        elif member.kind in self._makers:
            self._replace(lambda: self._makers[member.kind](name, member.target), name)
        else:
            raise self._invalid(
                f"is {_REFUSED.get(member.kind, 'of a kind that is not known')}, which is not unpacked"
            )

    def write(self, piece: memoryview) -> None:
        """More data of the file that was started last."""
        while piece:
            piece = piece[os.write(self._file, piece) :]

    def finish(self) -> None:
        """The member is whole."""
        if self._file >= 0:
            os.utime(self._file, ns=(self._mtime, self._mtime))
            descriptor, self._file = self._file, -1
            os.close(descriptor)

    def release(self) -> None:
        """Close every descriptor; the extraction is over, or given up."""
        for descriptor in {self._file, self._parent, self._root} - {-1}:
            os.close(descriptor)
        self._file = self._parent = self._root = -1

    def _enter_parent(self, member: Member) -> bytes:
        """Make `_parent` the member's directory and return its name there (empty: the root itself)."""
        name = member.name.rstrip(b"/") if member.kind == DIRECTORY else member.name
        above, slash, last = name.rpartition(b"/")
        if above != self._last or last in _NO_NAME or (slash and not above):
            steps = self._steps(member)
            above, last = b"/".join(steps[:-1]), steps[-1] if steps else b""
            self._descend(tuple(steps[:-1]))
            self._last = above
        return last

    def _steps(self, member: Member) -> list[bytes]:
        steps = self._split(member.name)
        if steps and member.name.startswith(b"/"):  # `/` alone is what Python's tarfile calls the top
            raise self._invalid("has an absolute name")
        if not steps and member.kind != DIRECTORY:
            raise self._invalid("has no name")
        return steps

    def _split(self, path: bytes) -> list[bytes]:
        steps = [step for step in path.split(b"/") if step not in (b"", b".")]
        if b".." in steps:
            raise self._invalid("leads out of its directory")
        if len(path) > _PATH_LIMIT:
            raise self._invalid(f"has a name of {len(path):,} bytes")
        if len(steps) > DEPTH:
            raise self._invalid(f"lies more than {DEPTH} directories deep")
        return steps

    def _descend(self, above: tuple[bytes, ...]) -> None:
        """Open the directories `above`, from the one that is open where they are below it; make what is missing."""
        known = len(self._above)
        if above[:known] != self._above:
            known = 0
        descriptor = self._parent if known else self._root
        for step in above[known:]:
            outer = descriptor
            try:
                descriptor = self._enter(outer, step)
            finally:
                if outer not in (self._root, self._parent):
                    os.close(outer)
        if self._parent not in (self._root, descriptor):
            os.close(self._parent)
        self._parent, self._above = descriptor, above

    def _enter(self, parent: int, name: bytes) -> int:
        try:
            return os.open(name, _ENTER, dir_fd=parent)
        except FileNotFoundError:
            self._count()
            os.mkdir(name, dir_fd=parent)
            return os.open(name, _ENTER, dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise self._invalid(f"leads through {os.fsdecode(name)}, which is a link or a file") from error

    def _directory(self, name: bytes, mode: int) -> None:
        try:
            os.mkdir(name, dir_fd=self._parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=self._parent, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=self._parent)
                os.mkdir(name, dir_fd=self._parent)
        os.chmod(name, mode & 0o777 | 0o700, dir_fd=self._parent)

    def _symlink(self, name: bytes, target: bytes) -> int:
        inside = self._rules.link(target, len(self._above))
        if inside is None:
            raise self._invalid(f"links to {os.fsdecode(target)}, which is outside")
        os.symlink(inside, name, dir_fd=self._parent)
        return 0

    def _hardlink(self, name: bytes, target: bytes) -> int:
        """Link to an earlier member, named from the root."""
        if target.startswith(b"/"):
            raise self._invalid(f"links to {os.fsdecode(target)}, which is outside")
        steps = self._split(target)
        source = self._root
        try:
            for step in steps[:-1]:
                above, source = source, os.open(step, _ENTER, dir_fd=source)
                if above != self._root:
                    os.close(above)
            return self._link(steps[-1], source, name)
        except (FileNotFoundError, NotADirectoryError, IndexError) as error:
            raise self._invalid(f"links to {os.fsdecode(target)}, which is not in the archive before it") from error
        finally:
            if source != self._root:
                os.close(source)

    def _link(self, there: bytes, source: int, name: bytes) -> int:
        status = os.stat(there, dir_fd=source, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            # At another depth the same words lead elsewhere.
            return self._symlink(name, os.readlink(there, dir_fd=source))
        if not stat.S_ISREG(status.st_mode):
            raise self._invalid(f"links to {os.fsdecode(there)}, which is no file")
        os.link(there, name, src_dir_fd=source, dst_dir_fd=self._parent, follow_symlinks=False)
        return 0

    def _replace(self, make: Callable[[], int], name: bytes) -> int:
        try:
            return make()
        except FileExistsError:
            self._remove(name)
            return make()

    def _remove(self, name: bytes) -> None:
        try:
            os.unlink(name, dir_fd=self._parent)
        except (IsADirectoryError, PermissionError):
            try:
                os.rmdir(name, dir_fd=self._parent)
            except OSError as error:
                raise self._invalid("would take the place of a directory that holds other members") from error

    def _count(self) -> None:
        self._made += 1
        if self._made > MEMBERS:
            raise ArtifactInvalidError(f"holds more than {MEMBERS:,} files and directories")

    def _invalid(self, what: str) -> ArtifactInvalidError:
        return ArtifactInvalidError(f"member {os.fsdecode(self.member)} {what}")
