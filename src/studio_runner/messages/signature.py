"""Signatures of senders: Ed25519 over the payload's text, in the two encodings there are (INTERFACE section 7)."""

import base64
from collections.abc import Sequence
from hmac import compare_digest

from studio_runner.messages.keys import SigningKey, VerifyKey
from studio_runner.messages.sealing import decoded

LENGTH = 64
_BLOB = b"\0\0\0\x0bssh-ed25519" + LENGTH.to_bytes(4, "big")
"""What stands before the signature in SSH's encoding (RFC 4251, section 5)."""


def sign(payload: str, key: SigningKey) -> str:
    """The raw signature in base64, as existing clients send it."""
    return base64.b64encode(key.sign(payload.encode())).decode()


def signer(payload: str, signature: str, fingerprint: str, keys: Sequence[VerifyKey]) -> VerifyKey | None:
    """The one of `keys` that has this fingerprint and signed the payload; None when none did."""
    raw = _raw(signature)
    for key in keys:
        named = compare_digest(key.fingerprint.encode(), fingerprint.encode())
        if raw is not None and key.verifies(raw, payload.encode()) and named:
            return key
    return None


def _raw(signature: str) -> bytes | None:
    """The 64 bytes, bare or in SSH's encoding."""
    found = decoded(signature)
    if found is None:
        return None
    raw = found if len(found) == LENGTH else found.removeprefix(_BLOB)
    return raw if len(raw) == LENGTH else None
