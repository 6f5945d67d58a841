"""Requests as messages: in clear text, or sealed for a runner's key and signed by this person, where the
configuration names the keys (`public_key_path`, `signing_key_path`)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from studio_runner.config.studioml import StudioConfig
from studio_runner.errors import ConfigError, KeyFileError, KeyLockedError
from studio_runner.messages.request import Request

if TYPE_CHECKING:  # most people have no keys
    from studio_runner.messages.keys import SealingKey, SigningKey


@dataclass(frozen=True)
class Posted:
    """What goes onto a queue. `sealed` is what a sealed message is called there (`messages.naming`)."""

    body: bytes
    sealed: str = ""


Post = Callable[[Request], Posted]

Ask = Callable[[Path], bytes]
"""Asks for the passphrase of a key file; KeyLockedError when there is nobody to ask."""


def in_clear_text(request: Request) -> Posted:
    return Posted(request.to_json())


@dataclass(frozen=True)
class Sealer:
    """Seals requests for `key`, signed with `signing`."""

    key: "SealingKey"
    signing: "SigningKey"

    def __call__(self, request: Request) -> Posted:
        from studio_runner.messages.envelope import enclosed  # noqa: PLC0415
        from studio_runner.messages.naming import name_of  # noqa: PLC0415

        body = enclosed(request, self.key, self.signing)
        return Posted(body, name_of(body))

    def __str__(self) -> str:
        return f"sealed for {self.key.fingerprint}, signed by {self.signing.public.fingerprint}"


def post_of(config: StudioConfig, ask: Ask) -> Post:
    """How this person's requests are sent. KeyFileError when a key cannot be used, ConfigError when one is missing:
    nothing that was to be sealed is ever sent in clear text."""
    if config.public_key_path is None and config.signing_key_path is None:
        return in_clear_text
    if config.public_key_path is None:
        raise _half(config, "signing_key_path", "public_key_path", "the key that the runner's operator gave you")
    if config.signing_key_path is None:
        raise _half(
            config, "public_key_path", "signing_key_path", "`studio-runner keys make signing PATH` makes one"
        )
    return Sealer(_sealing_key(config.public_key_path), _signing_key(config, config.signing_key_path, ask))


def _sealing_key(path: Path) -> "SealingKey":
    from studio_runner.config.keys.files import HINT, public_content  # noqa: PLC0415
    from studio_runner.messages.keys import read_sealing_key  # noqa: PLC0415

    content = public_content(path)
    try:
        return read_sealing_key(content)
    except KeyFileError as error:
        raise KeyFileError(f"public_key_path, {path}, cannot be used: {error}", hint=HINT) from error


def _signing_key(config: StudioConfig, path: Path, ask: Ask) -> "SigningKey":
    from studio_runner.config.keys.files import HINT, passphrase_in, private_content  # noqa: PLC0415
    from studio_runner.messages.keys import read_signing_key  # noqa: PLC0415

    content = private_content(path)
    kept = config.signing_key_passphrase_path
    passphrase = passphrase_in(kept) if kept else None
    try:
        try:
            return read_signing_key(content, passphrase)
        except KeyLockedError:
            return read_signing_key(content, ask(path))
    except KeyFileError as error:
        raise KeyFileError(f"signing_key_path, {path}, cannot be used: {error}", hint=error.hint or HINT) from error


def _half(config: StudioConfig, there: str, missing: str, mend: str) -> ConfigError:
    return ConfigError(
        f"{config.path} has {there} and no {missing}: messages are sealed and signed, or neither",
        hint=f"Add {missing}: {mend}.",
    )
