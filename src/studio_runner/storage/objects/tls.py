"""TLS as the settings want it."""

import ssl
from collections.abc import Callable
from pathlib import Path

from studio_runner.config.settings import StorageSettings
from studio_runner.errors import ConfigError


def tls_context(settings: StorageSettings) -> ssl.SSLContext:
    """Trusts what the machine trusts and `settings.ca`; shows `settings.cert` to servers that ask. ConfigError."""
    context = ssl.create_default_context()
    ca, cert, key = settings.ca, settings.cert, settings.key
    if ca is not None:
        _load(ca, "s3-ca", lambda: context.load_verify_locations(ca))
    if key is not None and cert is None:
        raise ConfigError("s3-key is given without s3-cert", hint="give the certificate that belongs to the key")
    if cert is not None:
        _load(cert, "s3-cert, s3-key", lambda: context.load_cert_chain(cert, key, password=_no_passphrase))
    return context


def _load(path: Path, setting: str, load: Callable[[], None]) -> None:
    try:
        load()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{setting}: {path} cannot be used for TLS: {error}",
            hint="it must be a PEM file that the runner can read, a key without a passphrase",
        ) from error


def _no_passphrase() -> str:
    """Instead of asking at the terminal."""
    raise ValueError("the key has a passphrase")
