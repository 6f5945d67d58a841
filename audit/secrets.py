"""Secrets in anything that was ever committed, by the detectors of detect-secrets. A line is looked at once however
many versions of its file there are, so that the whole history takes seconds."""

import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import Any

from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

from audit.report import Report

ALLOWED = Path(__file__).with_name("allowed_secrets.txt")
_NO_SECRETS = frozenset({"Public IP (ipv4)"})
_PASSWORDS = frozenset({"Basic Auth Credentials", "Secret Keyword"})
_SHORTEST = 8
"""Characters of a password; a shorter one stands for one in an example."""
_LONGEST_LINE = 20_000

_Lines = dict[tuple[str, str], set[str]]
"""By line and the suffix of its files (what a password looks like depends on the language): their paths."""


@dataclass(frozen=True)
class Found:
    """`value` is the secret, or what gives it away (the first line of a private key)."""

    path: str
    kind: str
    value: str

    def __str__(self) -> str:
        """Without the secret: continuous integration keeps what is printed."""
        return f"{self.path}: {self.kind} `{self.value[:3]}...` of {len(self.value)} characters"


@dataclass(frozen=True)
class Allowed:
    """Values that are no secrets in the paths that match; patterns, both."""

    path: str
    value: str

    def covers(self, found: Found) -> bool:
        return fnmatchcase(found.path, self.path) and fnmatchcase(found.value, self.value)


def check_secrets(root: Path, allowed: Sequence[Allowed] | None = None) -> Report:
    lines = _lines([*_history(root), *_tree(root)])
    known = read_allowed(ALLOWED) if allowed is None else allowed
    found = set(_found(lines))
    problems = sorted(str(one) for one in found if not any(entry.covers(one) for entry in known))
    shallow = _git(root, "rev-parse", "--is-shallow-repository") == b"true\n"
    missed = "the older history is not here (a shallow clone)" if shallow else ""
    return Report("secrets", f"{len(lines):,} different lines of the tree and its history", problems, missed)


def read_allowed(path: Path) -> list[Allowed]:
    rows = (line.partition(" ") for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return [Allowed(place, value) for place, _, value in rows]


def _found(lines: _Lines) -> Iterator[Found]:
    kinds: dict[str, Any] = get_mapping_from_secret_type_to_class()
    for kind, plugin in kinds.items():
        if kind in _NO_SECRETS:
            continue
        detector = plugin()
        for (line, suffix), paths in lines.items():
            for one in detector.analyze_line(filename=f"x{suffix}", line=line, line_number=1):
                if kind not in _PASSWORDS or len(one.secret_value) >= _SHORTEST:
                    yield from (Found(path, kind, one.secret_value) for path in paths)


def _lines(files: Iterable[tuple[str, bytes]]) -> _Lines:
    found: _Lines = {}
    for path, content in files:
        if b"\0" not in content[:8000]:
            suffix = PurePath(path).suffix
            for line in content.decode(errors="replace").splitlines():
                for at in range(0, len(line), _LONGEST_LINE):
                    found.setdefault((line[at : at + _LONGEST_LINE].strip(), suffix), set()).add(path)
    return found


def _tree(root: Path) -> Iterator[tuple[str, bytes]]:
    """The files that are tracked or could be added, as they are now."""
    names = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split(b"\0")
    for name in filter(None, map(bytes.decode, names)):
        path = root / name
        if path.is_file() and not path.is_symlink():
            yield name, path.read_bytes()


def _history(root: Path) -> Iterator[tuple[str, bytes]]:
    """Every version of every file that a commit had, the oldest first; and what the commits say."""
    listed = _git(root, "rev-list", "--objects", "--reverse", "HEAD").decode(errors="replace").splitlines()
    paths = {name: path or "commit" for name, _, path in (line.partition(" ") for line in listed)}
    packed = _git(root, "cat-file", "--batch", said="\n".join(paths).encode() + b"\n")
    at = 0
    while at < len(packed):
        end = packed.index(b"\n", at)
        name, kind, size = packed[at:end].split()
        at = end + 1 + int(size) + 1
        if kind in (b"blob", b"commit", b"tag"):
            yield paths[name.decode()], packed[end + 1 : at - 1]


def _git(root: Path, *arguments: str, said: bytes = b"") -> bytes:
    command = ("git", "-C", str(root), *arguments)
    return subprocess.run(command, input=said, stdout=subprocess.PIPE, check=True).stdout
