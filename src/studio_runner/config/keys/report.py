"""What a key file is, for people who wonder: of which kind, in which form, for what, and whether it is safe."""

import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from studio_runner.config.keys.files import key_content, private_content, public_content
from studio_runner.config.keys.public import key_parts
from studio_runner.errors import KeyFileError, KeyLockedError
from studio_runner.messages.keys import AnyKey, OpeningKey, SealingKey, SigningKey, VerifyKey, read_key

Ask = Callable[[Path], bytes]
"""Tells the passphrase of a key file; KeyLockedError when nobody knows."""

_PRIVATE = b"PRIVATE KEY-----"
_PKCS1, _PKCS8, _OPENSSH, _LINE = "PKCS#1 PEM", "PKCS#8 PEM", "OpenSSH", "OpenSSH line"
_FORMS = (
    (b"BEGIN RSA P", _PKCS1),
    (b"BEGIN OPENSSH", _OPENSSH),
    (b"BEGIN PUBLIC", "SubjectPublicKeyInfo PEM"),
    (b"BEGIN ", _PKCS8),
)

_USES: dict[type, str] = {
    VerifyKey: "of a sender, in the runner's request_signatures_dir",
    SigningKey: "signs a sender's messages: signing_key_path",
    SealingKey: "seals messages: public_key_path of senders; or reports: the runner's response_signatures_dir",
    OpeningKey: "opens messages, in the runner's encrypt_dir; or reports: `studio-runner reports`",
}


@dataclass(frozen=True)
class KeyReport:
    """One key of a file. `trouble` says what is wrong with the file's mode or owner, None where nothing is; `note`
    what existing clients and runners make of it, where that is not simply to read it."""

    file: Path
    kind: str
    private: bool
    form: str
    encrypted: bool
    bits: int
    fingerprint: str
    mode: str
    trouble: str | None
    use: str
    note: str | None


def reports_of(path: Path, ask: Ask) -> Sequence[KeyReport]:
    """Of every key in the file; KeyFileError when there is none that can be read."""
    try:
        content, status = key_content(path)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from error
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    try:
        if _PRIVATE in content:
            return [_private(path, content, mode, ask)]
        return [_report(path, part, read_key(part), mode) for part in key_parts(content)]
    except KeyFileError as error:
        raise KeyFileError(f"{path} cannot be shown: {error}", hint=error.hint) from error


def _private(path: Path, content: bytes, mode: str, ask: Ask) -> KeyReport:
    try:
        return _report(path, content, read_key(content), mode)
    except KeyLockedError:
        return _report(path, content, read_key(content, ask(path)), mode, encrypted=True)


def _report(path: Path, content: bytes, key: AnyKey, mode: str, *, encrypted: bool = False) -> KeyReport:
    private = isinstance(key, OpeningKey | SigningKey)
    public = key.public if isinstance(key, OpeningKey | SigningKey) else key
    form = next((name for mark, name in _FORMS if mark in content), _LINE)
    return KeyReport(
        file=path,
        kind="RSA" if isinstance(public, SealingKey) else "Ed25519",
        private=private,
        form=form,
        encrypted=encrypted,
        bits=public.bits if isinstance(public, SealingKey) else 256,
        fingerprint=public.fingerprint,
        mode=mode,
        trouble=_trouble(path, private_content if private else public_content),
        use=_USES[type(key)],
        note=_note(key, form, encrypted=encrypted),
    )


def _note(key: AnyKey, form: str, *, encrypted: bool) -> str | None:
    match key:
        case SigningKey() if encrypted:
            return "existing clients cannot use it: it has a passphrase"
        case SigningKey() if form != _OPENSSH:
            return "existing clients cannot use it: it is not in OpenSSH's form"
        case OpeningKey() if form != _PKCS1:
            return "existing runners cannot use it: it is not in PKCS#1 PEM (ssh-keygen -p -m PEM writes that)"
        case VerifyKey() if form != _LINE:
            return "no runner can use it as it is: `studio-runner keys trust` installs it as they can"
        case SealingKey() if form != _PKCS1:
            return "existing runners cannot use it as it is: `studio-runner keys trust` installs it as they can"
    return None


def _trouble(path: Path, look: Callable[[Path], bytes]) -> str | None:
    try:
        look(path)
    except KeyFileError as error:
        return f"{error}. {error.hint}" if error.hint else str(error)
    return None
