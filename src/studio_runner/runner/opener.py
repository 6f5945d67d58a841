"""Whose message is it, and what is in it: verified first, opened second, read third (INTERFACE section 7)."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from studio_runner.config.keys.files import KeyDirectory, OpeningKeyFile
from studio_runner.config.settings import TrustSettings
from studio_runner.errors import (
    ExperimentError,
    InvalidMessageError,
    KeyFileError,
    KeyUnsettledError,
    RejectedError,
)
from studio_runner.messages.envelope import Envelope, envelope_in, unsigned
from studio_runner.messages.keys import VerifyKey, read_verify_keys
from studio_runner.messages.request import Request, read_message, request_of

log = logging.getLogger(__name__)

NO_KEY = "it is sealed, and this runner has no key to open it (--encrypt-dir)"


@dataclass(frozen=True)
class Reading:
    """What reading a message came to: its request, or an error.

    `body` is the request's text, if the message got so far that anything in it is believed; `sender` is the
    fingerprint of who signed it, "" where nobody had to; `name` is what the message is called that has no request.
    """

    body: bytes = b""
    request: Request | None = None
    error: ExperimentError | None = None
    sealed: bool = False
    sender: str = ""
    name: str = "(unreadable)"


def _any(_envelope: Envelope) -> bool:
    return True


class Opener:
    """Reads messages as `trust` says. Key files are looked at as they are when a message comes."""

    def __init__(self, trust: TrustSettings) -> None:
        self._trust = trust
        self._own = OpeningKeyFile(trust.encrypt_dir) if trust.encrypt_dir else None
        directory = trust.request_signatures_dir
        self._senders = KeyDirectory(directory, read_verify_keys) if directory else None

    @property
    def opens(self) -> bool:
        """Whether there is a key for sealed messages at all."""
        return self._own is not None

    def prepare(self) -> None:
        """Load the key, which takes some tenths of a second. KeyFileError when it, or the directory of the senders'
        keys, cannot be used: better now than with the first message."""
        if self._own:
            self._own.key()
        if self._senders:
            self._senders.check()

    def read(self, queue: str, body: bytes, wanted: Callable[[Envelope], bool] = _any) -> Reading | None:
        """Read the message, or leave it: None when `wanted` does not want it, by what its envelope says in clear
        text, or when a key is just being written."""
        try:
            senders = self._senders.of(queue) if self._senders else None
            if senders is None and self._trust.reads_clear_text:
                return self._read_any(body, wanted)
            return self._read_sealed(body, wanted, senders)
        except RejectedError as error:
            return Reading(error=error)
        except KeyFileError as error:
            return Reading(error=RejectedError(str(error), hint=error.hint))
        except KeyUnsettledError as error:
            log.warning("messages of queue %s wait: %s", queue, error)
            return None

    def _read_any(self, body: bytes, wanted: Callable[[Envelope], bool]) -> Reading | None:
        try:
            document = read_message(body)
        except InvalidMessageError as error:
            return Reading(body, error=error)
        envelope = envelope_in(document)
        return _parsed(document, body) if envelope is None else self._opened(envelope, wanted, None)

    def _read_sealed(
        self, body: bytes, wanted: Callable[[Envelope], bool], senders: Sequence[VerifyKey] | None
    ) -> Reading | None:
        try:
            envelope = envelope_in(read_message(body))
        except InvalidMessageError as error:
            raise RejectedError(f"The message cannot be read: {error}") from error
        if envelope is None and senders is not None:
            raise unsigned(senders)
        if envelope is None:
            raise RejectedError(
                "The message is in clear text, and this runner reads sealed ones only",
                hint="Seal it, or start the runner with --clear-text-messages.",
            )
        return self._opened(envelope, wanted, senders)

    def _opened(
        self, envelope: Envelope, wanted: Callable[[Envelope], bool], senders: Sequence[VerifyKey] | None
    ) -> Reading | None:
        if not wanted(envelope):
            return None
        try:
            sender, clear = self._inside(envelope, senders)
        except RejectedError as error:
            return Reading(error=error, name=envelope.name)
        try:
            reading = _parsed(read_message(clear), clear)
        except InvalidMessageError as error:
            reading = Reading(clear, error=error)
        return replace(reading, sealed=True, sender=sender, name=envelope.name)

    def _inside(self, envelope: Envelope, senders: Sequence[VerifyKey] | None) -> tuple[str, bytes]:
        """Who signed it, "" where nobody has to, and what is sealed in it."""
        sender = envelope.verified(senders).fingerprint if senders is not None else ""
        if self._own is None:
            raise RejectedError(f"The message cannot be run: {NO_KEY}")
        return sender, envelope.opened(self._own.key())


def _parsed(document: Any, body: bytes) -> Reading:
    try:
        return Reading(body, request_of(document, body))
    except InvalidMessageError as error:
        return Reading(body, error=error)
