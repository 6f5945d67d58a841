"""Key files: whole, damaged, and what lies in a directory of keys."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from fuzz.picks import Picks
from fuzz.target import noise
from studio_runner.config.keys.files import KeyDirectory
from studio_runner.errors import KeyFileError, KeyUnsettledError
from studio_runner.messages.keys import (
    new_opening_key,
    new_signing_key,
    private_text,
    public_text,
    read_key,
    read_sealing_key,
    read_signing_key,
    read_verify_keys,
)

MAX_LEN = 4096
WORDS = (
    *(b"-----BEGIN PUBLIC KEY-----\n", b"-----BEGIN RSA PUBLIC KEY-----\n", b"-----END RSA PUBLIC KEY-----\n"),
    *(b"-----BEGIN OPENSSH PRIVATE KEY-----\n", b"-----BEGIN EC PRIVATE KEY-----\n", b"ssh-ed25519 ", b"ssh-rsa "),
    *(b"AAAAC3NzaC1lZDI1NTE5AAAAI", b"AAAAB3NzaC1yc2E", b"ecdsa-sha2-nistp256 ", b"Proc-Type: 4,ENCRYPTED\n", b"#"),
)
_MEMORY = Path("/dev/shm")
_NAMES = ("rmq_", "rmq_cpu_", "rmq_cpu", "rmq_gpu_", "info", ".hidden", "..data", "x" * 255, "r", "rmq_cpu_andrei_")
_READERS: tuple[Callable[[bytes], object], ...] = (read_key, read_sealing_key, read_verify_keys, read_signing_key)


@cache
def _genuine() -> tuple[bytes, ...]:
    rsa, ed25519 = new_opening_key(), new_signing_key()
    return (
        *(public_text(ed25519.public, "somebody@somewhere"), public_text(rsa.public), private_text(ed25519)),
        public_text(ed25519.public) * 2 + b"# a comment\n\n",
    )


def seeds() -> Iterable[bytes]:
    yield from (b"\0" + text for text in _genuine())
    point = "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAAAhAgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    yield b"\0ecdsa-sha2-nistp256 " + point.encode()  # compressed
    yield b"\0ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7 x"
    yield b"\0-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n"
    yield from (bytes([kind]) + piece for kind in (1, 2) for piece in noise(20, 64))


def check(data: bytes) -> None:
    picks = Picks(data)
    match picks.below(3):
        case 0:
            _read(picks.rest())
        case 1:
            _damaged(picks)
        case _:
            _directory(picks)


def _read(content: bytes) -> None:
    for read in _READERS:
        try:
            read(content)
        except KeyFileError as error:
            str(error).encode()


def _damaged(picks: Picks) -> None:
    content = bytearray(picks.one(_genuine()))
    for _ in range(1 + picks.below(3)):
        at = picks.below(len(content))
        match picks.below(3):
            case 0:
                content[at] ^= 1 + picks.below(255)
            case 1:
                del content[at:]
            case _:
                content[at:at] = picks.some(4)
        if not content:
            break
    _read(bytes(content))


def _directory(picks: Picks) -> None:
    root = Path(tempfile.mkdtemp(dir=_MEMORY if _MEMORY.is_dir() else None))
    try:
        while picks:
            _make(root / picks.one(_NAMES), picks)
        directory = KeyDirectory(root, read_verify_keys)
        for queue in ("rmq_cpu_andrei_1", "rmq", "sqs_x"):
            try:
                directory.of(queue)
            except (KeyFileError, KeyUnsettledError) as error:
                str(error)
        directory.names()
    finally:
        shutil.rmtree(root)


def _make(path: Path, picks: Picks) -> None:
    if os.path.lexists(path):
        return
    match picks.below(8):
        case 0:
            path.mkdir()
        case 1:
            path.symlink_to(picks.one(("/dev/zero", "rmq_", "/nowhere", "..", path.name)))
        case 2:
            os.mkfifo(path)
        case 3:
            path.write_bytes(picks.some(40))
        case _:
            path.write_bytes(picks.one(_genuine())[: picks.one((4096, 40, 0))])
    if not path.is_symlink():
        path.chmod(picks.one((0o600, 0o644, 0o666, 0o400)))
