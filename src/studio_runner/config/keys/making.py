"""New key files, and senders' keys put where a runner looks for them. Nothing that is there is written over, and no
private key is readable by others for a moment."""

import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from studio_runner.config.keys.files import is_mistaken, private_content
from studio_runner.config.keys.public import PublicKeys, read_public_keys
from studio_runner.errors import KeyFileError, UsageError
from studio_runner.messages.keys import OpeningKey, SigningKey, private_text, public_text, read_key

PRIVATE, PUBLIC = 0o600, 0o644
"""Modes of files."""
LONGEST = 1023
"""Bytes of a passphrase that OpenSSL takes."""

_KINDS = ("local_", "rmq_", "sqs_")


@dataclass(frozen=True)
class PairFiles:
    """Where a pair of keys goes. `passphrase` is where its passphrase goes, if it is to be kept."""

    private: Path
    public: Path
    passphrase: Path | None = None

    @classmethod
    def beside(cls, path: Path) -> "PairFiles":
        """As ssh-keygen names them."""
        return cls(path, path.with_name(path.name + ".pub"))

    @classmethod
    def of_runner(cls, directory: Path) -> "PairFiles":
        """In an `encrypt_dir`."""
        return cls(
            directory / "encryption" / "ssh-privatekey",
            directory / "encryption" / "ssh-publickey",
            directory / "passphrase" / "ssh-passphrase",
        )

    def refuse_existing(self) -> None:
        """UsageError when one of them is there already."""
        for path in filter(None, (self.private, self.public, self.passphrase)):
            if path.is_symlink() or path.exists():
                raise UsageError(
                    f"There is a file {path} already", hint="No key is written over: choose another place."
                )


def write_pair(files: PairFiles, key: OpeningKey | SigningKey, passphrase: bytes | None, comment: str = "") -> None:
    """Write all of the pair's files, or none; KeyFileError says why not."""
    files.refuse_existing()
    if passphrase and len(passphrase) > LONGEST:
        raise UsageError(f"The passphrase has {len(passphrase)} bytes, accepted are at most {LONGEST}")
    contents = {files.private: (private_text(key, passphrase), PRIVATE)}
    if passphrase and files.passphrase:
        contents[files.passphrase] = passphrase + b"\n", PRIVATE
    contents[files.public] = public_text(key.public, " ".join(comment.split())), PUBLIC
    _write_new(contents)
    try:
        read_key(private_content(files.private), passphrase)  # a file system that keeps no modes would show here
    except KeyFileError:
        _remove(contents)
        raise


def _write_new(contents: Mapping[Path, tuple[bytes, int]]) -> None:
    made: list[Path] = []
    try:
        for path, (content, mode) in contents.items():
            _make_directory(path.parent)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
            made.append(path)
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)  # whatever the umask is: public halves are for others
                file.write(content)
                file.flush()
                os.fsync(descriptor)
    except OSError as error:
        _remove(made)
        raise KeyFileError(f"The key file {error.filename or path} cannot be written: {error.strerror}") from error


def _make_directory(path: Path) -> None:
    """With those above it that are missing, closed to others."""
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    for directory in reversed(missing):
        directory.mkdir(mode=0o700, exist_ok=True)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


# -- keys of others -----------------------------------------------------------------------------------------------


class Earlier(StrEnum):
    """What becomes of the keys that a queue has already."""

    REFUSES = "refuses"
    STAYS = "stays"
    GOES = "goes"


def install(keys: PublicKeys, prefix: str, directory: Path, earlier: Earlier) -> Path:
    """Give `keys` to all queues whose names begin with `prefix`; the file that has them then. Whoever reads it
    meanwhile finds the whole of the old content or the whole of the new one."""
    _check_prefix(prefix)
    path = directory / prefix
    content = _after(path, keys, earlier) if path.exists() else keys.text
    try:
        if not directory.exists():
            _make_directory(directory)
            directory.chmod(0o755)
        draft = path.with_name(f".{prefix}.{secrets.token_hex(4)}")
        _write_new({draft: (content, PUBLIC)})
        draft.rename(path)
    except OSError as error:
        raise KeyFileError(f"The key {path} cannot be written: {error.strerror}") from error
    return path


def _after(path: Path, keys: PublicKeys, earlier: Earlier) -> bytes:
    if earlier is Earlier.GOES:
        return keys.text
    there = read_public_keys(path).text.splitlines(keepends=True)
    fresh = [line for line in keys.text.splitlines(keepends=True) if line not in there]
    if fresh and earlier is Earlier.REFUSES:
        raise UsageError(
            f"Queues that begin with {path.name} have a key already, {path}",
            hint="--add keeps it too, until its owner uses the new one only; --replace removes it.",
        )
    return b"".join([*there, *fresh])


def _check_prefix(prefix: str) -> None:
    begins = any(prefix.startswith(kind) or kind.startswith(prefix) for kind in _KINDS)
    if not prefix or not begins or "/" in prefix or "\0" in prefix:
        raise UsageError(
            f"No queue's name begins with {prefix!r}", hint="Queues are named local_..., rmq_... or sqs_..."
        )
    if is_mistaken(prefix):
        raise UsageError(
            f"No queue's name begins with {prefix!r}", hint="Leave the pattern, or the ending, away: rmq_team_."
        )
