"""Keys: RSA for sealing and opening, Ed25519 for signing and verifying, in every format that people have them in
(INTERFACE section 7).

`cryptography` does the work and is loaded when a key is first used: most runners have none.
"""

import base64
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from studio_runner.errors import KeyFileError, KeyLockedError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.padding import OAEP
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

LEAST_BITS, MOST_BITS = 4096, 16384
"""Of an RSA key."""
LONGEST_EXPONENT = 64
"""Bits of an RSA key's public exponent; OpenSSL takes no longer ones."""
SESSION_KEY = 32
"""Bytes that a sealed message is encrypted with."""

_PEM, _PRIVATE = b"-----BEGIN", b"PRIVATE KEY-----"
_UTF8_BOM = b"\xef\xbb\xbf"
_SENDER = "a line `ssh-ed25519 AAAA... comment`"

Key = TypeVar("Key")


@dataclass(frozen=True)
class SealingKey:
    """The public half of an RSA key: what is sealed with it, only the private half opens."""

    rsa: "RSAPublicKey"

    def wrap(self, session_key: bytes) -> bytes:
        """RSA-OAEP with SHA-256 for hash and mask (RFC 8017)."""
        return self.rsa.encrypt(session_key, _oaep())

    @property
    def bits(self) -> int:
        return self.rsa.key_size

    @property
    def fingerprint(self) -> str:
        return _fingerprint(self.rsa)


@dataclass(frozen=True)
class OpeningKey:
    """An RSA key with its private half."""

    rsa: "RSAPrivateKey"

    def unwrap(self, wrapped: bytes) -> bytes:
        """The session key; a random one where `wrapped` is not for this key, or damaged. Whoever goes on with it
        fails there in either case, so that nobody can find out by trying which of the two it was."""
        instead = secrets.token_bytes(SESSION_KEY)
        try:
            found = self.rsa.decrypt(wrapped, _oaep())
        except ValueError:
            return instead
        return found if len(found) == SESSION_KEY else instead

    @property
    def public(self) -> SealingKey:
        return SealingKey(self.rsa.public_key())

    @property
    def size(self) -> int:
        """Bytes of a wrapped session key."""
        return (self.rsa.key_size + 7) // 8


@dataclass(frozen=True)
class VerifyKey:
    """The public half of an Ed25519 key."""

    ed25519: "Ed25519PublicKey"

    def verifies(self, signature: bytes, text: bytes) -> bool:
        """Whether these 64 bytes are this key's signature of `text`."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

        try:
            self.ed25519.verify(signature, text)
        except InvalidSignature:
            return False
        return True

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` prints it, and messages carry it."""
        return _fingerprint(self.ed25519)


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 key with its private half."""

    ed25519: "Ed25519PrivateKey"

    def sign(self, text: bytes) -> bytes:
        """64 bytes."""
        return self.ed25519.sign(text)

    @property
    def public(self) -> VerifyKey:
        return VerifyKey(self.ed25519.public_key())


AnyKey = SealingKey | OpeningKey | VerifyKey | SigningKey

_NAMES: dict[type, str] = {
    SealingKey: "the public half of an RSA key",
    OpeningKey: "an RSA key with its private half",
    VerifyKey: "the public half of an Ed25519 key",
    SigningKey: "an Ed25519 key with its private half",
}


def _fingerprint(key: "RSAPublicKey | Ed25519PublicKey") -> str:
    digest = hashlib.sha256(_blob(key)).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


# -- reading ------------------------------------------------------------------------------------------------------


def read_key(content: bytes, passphrase: bytes | None = None) -> AnyKey:
    """Whatever key this is: private ones in PEM (PKCS#1, encrypted the old way too, or PKCS#8) or as OpenSSH writes
    them, public ones in PEM (`RSA PUBLIC KEY`, `PUBLIC KEY`) or as OpenSSH's line.

    KeyFileError says what is wrong."""
    return _private(content, passphrase) if _PRIVATE in content else _public(content)


def read_opening_key(content: bytes, passphrase: bytes | None = None) -> OpeningKey:
    """The key by which a runner opens messages; KeyFileError says what it is instead."""
    return _expected(OpeningKey, read_key(content, passphrase))


def read_signing_key(content: bytes, passphrase: bytes | None = None) -> SigningKey:
    """The key by which a sender signs; KeyFileError says what it is instead."""
    return _expected(SigningKey, read_key(content, passphrase))


def read_sealing_key(content: bytes) -> SealingKey:
    """The key that a message or a report is sealed for; KeyFileError says what it is instead."""
    return _expected(SealingKey, read_key(content))


def read_verify_keys(content: bytes) -> Sequence[VerifyKey]:
    """The senders that a file names, a line `ssh-ed25519 AAAA... comment` each: usually one, two while a key is
    replaced by another. KeyFileError says which line is something else."""
    if _PEM in content:
        _expected(VerifyKey, read_key(content))
        raise KeyFileError(f"it is in PEM, accepted is {_SENDER} (`studio-runner keys trust` writes it)")
    found = [_expected(VerifyKey, read_key(line)) for line in key_lines(content)]
    if not found:
        raise KeyFileError(f"it is empty, accepted is {_SENDER}")
    return found


def key_lines(content: bytes) -> Sequence[bytes]:
    """The lines of a file of OpenSSH's public keys that are not blank and no comments."""
    lines = (line.strip() for line in content.removeprefix(_UTF8_BOM).splitlines())
    return [line for line in lines if line and not line.startswith(b"#")]


def _expected(wanted: type[Key], key: AnyKey) -> Key:
    if not isinstance(key, wanted):
        raise KeyFileError(f"it is {_NAMES[type(key)]}, accepted is {_NAMES[wanted]}")
    return key


def _private(content: bytes, passphrase: bytes | None) -> AnyKey:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    openssh = b"OPENSSH PRIVATE KEY" in content
    load = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
    try:
        return _typed(load(content, passphrase))
    except TypeError as error:  # so it says that there is a passphrase and needs to be none, or the other way round
        if passphrase is None:
            raise KeyLockedError("it is encrypted, and there is no passphrase for it") from error
        return _private(content, None)
    except (ValueError, NotImplementedError, UnsupportedAlgorithm) as error:
        why = "or the passphrase is another" if passphrase else "is it whole?"
        raise KeyFileError(f"it holds no private key that can be read ({why})") from error


def _public(content: bytes) -> AnyKey:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    pem = _PEM in content
    if not pem and (kind := content.split(maxsplit=1)[:1]) and kind[0].endswith(b"@openssh.com"):
        # A certificate, whose limits nobody here would look at, or the key of a device, which signs otherwise.
        raise KeyFileError(f"it is of the kind {kind[0].decode(errors='replace')}, accepted is a plain key")
    load = serialization.load_pem_public_key if pem else serialization.load_ssh_public_key
    try:
        return _typed(load(content.strip()))
    except (ValueError, NotImplementedError, UnsupportedAlgorithm) as error:
        raise KeyFileError("it holds no public key that can be read (is it whole?)") from error


def _typed(key: object) -> AnyKey:
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa  # noqa: PLC0415

    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey) and not LEAST_BITS <= key.key_size <= MOST_BITS:
        raise KeyFileError(f"it is an RSA key of {key.key_size} bits, accepted are {LEAST_BITS} to {MOST_BITS}")
    match key:
        case rsa.RSAPrivateKey():
            return OpeningKey(key)
        case rsa.RSAPublicKey() if key.public_numbers().e.bit_length() > LONGEST_EXPONENT:
            raise KeyFileError(f"its exponent has more than {LONGEST_EXPONENT} bits: nothing can be sealed with it")
        case rsa.RSAPublicKey():
            return SealingKey(key)
        case ed25519.Ed25519PrivateKey():
            return SigningKey(key)
        case ed25519.Ed25519PublicKey() if not _is_somebodys(key.public_bytes_raw()):
            raise KeyFileError("it is an Ed25519 key that belongs to everybody or to nobody (is it whole?)")
        case ed25519.Ed25519PublicKey():
            return VerifyKey(key)
    raise KeyFileError("it is neither an RSA nor an Ed25519 key")


def _is_somebodys(point: bytes) -> bool:
    """False for what has no private half, and for the few points (of zeros, say) for which everybody can sign."""
    from nacl.bindings import crypto_core_ed25519_is_valid_point  # noqa: PLC0415

    return bool(crypto_core_ed25519_is_valid_point(point))


# -- making -------------------------------------------------------------------------------------------------------


def new_opening_key() -> OpeningKey:
    """A fresh RSA key; takes a second or two."""
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415

    return OpeningKey(rsa.generate_private_key(public_exponent=65537, key_size=LEAST_BITS))


def new_signing_key() -> SigningKey:
    """A fresh Ed25519 key."""
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415

    return SigningKey(ed25519.Ed25519PrivateKey.generate())


def private_text(key: OpeningKey | SigningKey, passphrase: bytes | None = None) -> bytes:
    """The key as existing clients and runners read it: RSA as PKCS#1 in PEM, encrypted the old way where there is a
    passphrase; Ed25519 as OpenSSH writes it."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    locked = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    forms = serialization.PrivateFormat
    if isinstance(key, OpeningKey):
        return key.rsa.private_bytes(serialization.Encoding.PEM, forms.TraditionalOpenSSL, locked)
    return key.ed25519.private_bytes(serialization.Encoding.PEM, forms.OpenSSH, locked)


def public_text(key: SealingKey | VerifyKey, comment: str = "") -> bytes:
    """RSA as `RSA PUBLIC KEY` in PEM, Ed25519 as OpenSSH's line."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    if isinstance(key, SealingKey):
        return key.rsa.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1)
    return _openssh(key.ed25519) + (f" {comment}" if comment else "").encode() + b"\n"


def _openssh(key: "RSAPublicKey | Ed25519PublicKey") -> bytes:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


def _blob(key: "RSAPublicKey | Ed25519PublicKey") -> bytes:
    """SSH's encoding of a public key (RFC 4253, section 6.6)."""
    return base64.b64decode(_openssh(key).split()[1])


def _oaep() -> "OAEP":
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import padding  # noqa: PLC0415

    return padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
