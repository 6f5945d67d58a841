"""A file of public keys, before it is known what they are for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studio_runner.config.keys.files import public_content
from studio_runner.errors import KeyFileError
from studio_runner.messages.keys import SealingKey, VerifyKey, key_lines, public_text, read_key

_PEM = b"-----BEGIN"


@dataclass(frozen=True)
class PublicKeys:
    """Those of senders, or the one of a reader of reports. `text` is how runners want them."""

    keys: Sequence[SealingKey | VerifyKey]
    text: bytes

    @property
    def of_senders(self) -> bool:
        return isinstance(self.keys[0], VerifyKey)


def read_public_keys(path: Path) -> PublicKeys:
    """KeyFileError when it holds anything else, or can be changed by others."""
    content = public_content(path)
    try:
        parts = key_parts(content)
        keys = [read_key(part) for part in parts]
        senders = [key for key in keys if isinstance(key, VerifyKey)]
        if senders and len(senders) == len(keys):
            return PublicKeys(senders, b"".join(map(_line, parts, senders)))
        if len(keys) == 1 and isinstance(keys[0], SealingKey):
            return PublicKeys([keys[0]], public_text(keys[0]))
    except KeyFileError as error:
        raise KeyFileError(f"The key file {path} cannot be used: {error}", hint=error.hint) from error
    raise KeyFileError(
        f"The key file {path} cannot be used: accepted are the public halves of Ed25519 keys, or of one RSA key"
    )


def key_parts(content: bytes) -> Sequence[bytes]:
    """The keys of a file one by one: PEM is one, OpenSSH's lines are one each."""
    if _PEM in content:
        return [content]
    found = key_lines(content)
    if not found:
        raise KeyFileError("it is empty")
    return found


def _line(part: bytes, key: VerifyKey) -> bytes:
    """With the comment that it has."""
    return public_text(key) if _PEM in part else part + b"\n"
