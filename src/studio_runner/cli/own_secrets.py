"""The secrets of whoever runs a command, and the files that they are in."""

import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from studio_runner.config.cascade import Configuration, Value
from studio_runner.config.studioml import StudioConfig
from studio_runner.environments.images.logins import secrets_of_logins
from studio_runner.errors import StudioRunnerError
from studio_runner.messages.credentials import is_telling, secrets_in
from studio_runner.messages.secrets import mask_urls, without_secrets
from studio_runner.process.modes import PRIVATE

UNGUESSED = 16
"""Characters of a name in an address that is likely to be a token."""


def values(configuration: Configuration, environ: Mapping[str, str]) -> Iterator[str]:
    """Those of the settings and of the environment."""
    for value in filter(_is_secret, configuration.values.values()):
        texts = value.value if isinstance(value.value, tuple) else (str(value.value),)
        yield from secrets_in({"": texts})
        if value.option.secret:
            yield from filter(is_telling, (part for text in texts for part in _opening(text)))
    yield from secrets_in(dict(environ))
    if file := configuration.settings.containers.registry_auth:
        with suppress(StudioRunnerError):  # whoever needs it will say so
            yield from filter(is_telling, secrets_of_logins(file))


def _opening(secret: str) -> Iterator[str]:
    """What opens: of an address only the path, and what in it nobody guesses; its host is no secret."""
    if "://" not in secret:
        yield secret
        return
    path = urlsplit(secret).path.strip("/")
    yield path
    yield from (unquote(name) for name in path.split("/") if len(name) >= UNGUESSED)


def open_files(configuration: Configuration, config: StudioConfig, environ: Mapping[str, str]) -> list[str]:
    """A sentence for each file with secrets that others than its owner may read or change."""
    named = _files(configuration, config, environ)
    return [f"the {what} {path} can be read by others" for what, path in named if _is_open(path)]


def _files(
    configuration: Configuration, config: StudioConfig, environ: Mapping[str, str]
) -> Iterator[tuple[str, Path]]:
    settings, file = configuration.settings, configuration.file
    if file and any(value.origin == str(file) and _is_secret(value) for value in configuration.values.values()):
        yield "configuration file", file
    if config.path and without_secrets(config.document) != config.document:
        yield "StudioML configuration", config.path
    if auth := settings.containers.registry_auth:
        yield "file of registry logins", auth
    for key in filter(None, (settings.storage.key, settings.queues.amqp_key)):
        yield "private key", key
    if certs := settings.queues.sqs_certs:
        yield from (("credentials file", path) for path in sorted(certs.rglob("credentials")))
    if settings.storage.allow_env_secrets or (settings.queues.uses_sqs and not settings.queues.sqs_certs):
        home = Path(environ.get("HOME") or Path.home())
        yield "credentials file", Path(environ.get("AWS_SHARED_CREDENTIALS_FILE") or home / ".aws" / "credentials")


def _is_open(path: Path) -> bool:
    try:
        return stat.S_IMODE(path.stat().st_mode) & PRIVATE != 0
    except OSError:  # not there, or not for us either: who needs it will say so
        return False


def _is_secret(value: Value) -> bool:
    text = str(value.value)
    return bool(value.value) and (value.option.secret or mask_urls(text) != text)
