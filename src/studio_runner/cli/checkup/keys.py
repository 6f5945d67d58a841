"""The keys that open and verify messages and seal reports, and those of a person who sends."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from studio_runner.cli.checkup.finding import Finding, Here, ok, problem
from studio_runner.cli.passphrase import asked
from studio_runner.client.sealing import Sealer, post_of
from studio_runner.config.keys.files import NAMED, KeyDirectory, OpeningKeyFile, is_mistaken
from studio_runner.config.studioml import StudioConfig
from studio_runner.errors import ConfigError, KeyFileError, KeyUnsettledError
from studio_runner.messages.keys import SealingKey, VerifyKey, read_sealing_key, read_verify_keys
from studio_runner.runner.opener import NOTHING_OPENS

T = TypeVar("T")


def keys(here: Here) -> Iterator[Finding]:
    """Every key that the settings speak of; nothing where they speak of none."""
    trust = here.settings.trust
    if trust.encrypt_dir:
        yield _own(trust.encrypt_dir)
    if trust.request_signatures_dir:
        yield from _directory("senders", trust.request_signatures_dir, read_verify_keys, _senders)
        if not trust.encrypt_dir:
            yield problem("encryption key", NOTHING_OPENS, "Name one with --encrypt-dir.")
    if trust.response_signatures_dir:
        yield from _directory("reports", trust.response_signatures_dir, read_sealing_key, _reader)
    yield from _sender(here.config)


def _own(directory: Path) -> Finding:
    try:
        key = OpeningKeyFile(directory).key()
    except KeyFileError as error:
        return problem("encryption key", str(error), error.hint or "")
    return ok("encryption key", f"messages sealed for {key.public.fingerprint} can be opened")


def _sender(config: StudioConfig) -> Iterator[Finding]:
    """The keys of a person who sends."""
    try:
        post = post_of(config, asked)
    except ConfigError as error:
        yield problem("sending", str(error), error.hint or "")
        return
    if isinstance(post, Sealer):
        yield ok("sending", f"messages are {post}")


def _directory(
    subject: str, directory: Path, parse: Callable[[bytes], T], say: Callable[[T], str]
) -> Iterator[Finding]:
    found = KeyDirectory(directory, parse)
    try:
        names = found.names()
    except KeyFileError as error:
        yield problem(subject, str(error), error.hint or "")
        return
    if not names:
        yield ok(subject, f"no queue has a key in {directory}")
    for name in names:
        if is_mistaken(name):
            yield problem(
                subject, f"the key file {directory / name} hardly belongs to any queue", f"Rename it: {NAMED}."
            )
            continue
        try:
            key = found.of(name)
        except KeyUnsettledError as error:
            yield problem(subject, str(error), "Look again in a moment.")
        except KeyFileError as error:
            yield problem(subject, str(error), error.hint or "")
        else:
            yield ok(subject, f"queues {name}*: {say(key)}" if key else f"the key {name} was just removed")


def _senders(found: Sequence[VerifyKey]) -> str:
    return f"signed by {' or '.join(key.fingerprint for key in found)}"


def _reader(key: SealingKey) -> str:
    return f"sealed for {key.fingerprint}"
