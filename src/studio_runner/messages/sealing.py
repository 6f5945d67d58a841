"""Sealing: what only the owner of an RSA key can read, as requests and reports are sent (INTERFACE section 7).

`<base64 of the wrapped session key>,<base64 of nonce and ciphertext>`, a NaCl SecretBox (XSalsa20-Poly1305) inside.
"""

import base64
import binascii
import secrets

from studio_runner.errors import RejectedError
from studio_runner.messages.keys import SESSION_KEY, OpeningKey, SealingKey

NONCE, TAG = 24, 16
"""Bytes."""


def seal(clear: bytes, key: SealingKey) -> str:
    """Text that only the owner of `key` can open."""
    from nacl.secret import SecretBox  # noqa: PLC0415 - seldom wanted

    session_key = secrets.token_bytes(SESSION_KEY)
    box = SecretBox(session_key).encrypt(clear)
    return f"{base64.b64encode(key.wrap(session_key)).decode()},{base64.b64encode(box).decode()}"


def unseal(sealed: str, key: OpeningKey) -> bytes:
    """What was sealed. RejectedError when it is damaged or for another key, without a word on which it is."""
    from nacl.exceptions import CryptoError  # noqa: PLC0415
    from nacl.secret import SecretBox  # noqa: PLC0415

    wrapped, box = _parts(sealed)
    if len(wrapped) != key.size or len(box) < NONCE + TAG:
        raise _not_opened(key)
    try:
        return bytes(SecretBox(key.unwrap(wrapped)).decrypt(box))
    except CryptoError as error:
        raise _not_opened(key) from error


def decoded(text: str) -> bytes | None:
    """Base64 in its one proper spelling; None for anything else. (Spare bits of the last character must be zero, or
    a changed text could mean the same.)"""
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    end = base64.b64encode(found[len(found) - (len(found) % 3 or 3) :]).decode()
    return found if len(text) == (len(found) + 2) // 3 * 4 and text.endswith(end) else None


def _parts(sealed: str) -> tuple[bytes, bytes]:
    wrapped, comma, box = sealed.partition(",")
    parts = decoded(wrapped), decoded(box)
    if not comma or parts[0] is None or parts[1] is None:
        raise RejectedError("The message's payload is not two texts in base64 with a comma between them")
    return parts[0], parts[1]


def _not_opened(key: OpeningKey) -> RejectedError:
    return RejectedError(
        "The message cannot be opened: it is damaged, or sealed for another key",
        hint=f"The key here is {key.public.fingerprint}; whoever sends must have its public half.",
    )
