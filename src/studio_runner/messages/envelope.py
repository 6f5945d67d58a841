"""The sealed request message: what everybody may read of it, and what only the right runner can (INTERFACE
section 7)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from studio_runner.errors import RejectedError
from studio_runner.messages.keys import OpeningKey, SealingKey, SigningKey, VerifyKey
from studio_runner.messages.naming import sealed_name
from studio_runner.messages.request import Request
from studio_runner.messages.resources import Resources
from studio_runner.messages.sealing import seal, unseal
from studio_runner.messages.signature import sign, signer


@dataclass(frozen=True)
class Envelope:
    """A message that has not been opened. `advice` is what it says in clear text of the resources that it needs:
    enough to leave it to a larger machine, and not to be relied on, since nobody signed it."""

    payload: str = field(repr=False)
    signature: str | None
    fingerprint: str | None
    advice: Resources

    @cached_property
    def name(self) -> str:
        """What it is called before its experiment's key can be read."""
        return sealed_name(self.payload)

    def verified(self, keys: Sequence[VerifyKey]) -> VerifyKey:
        """Who of `keys` signed it; RejectedError when none did."""
        if self.signature is None or self.fingerprint is None:
            raise unsigned(keys)
        found = signer(self.payload, self.signature, self.fingerprint, keys)
        if found is None:
            raise RejectedError(
                "The message's signature is not of the key that its queue demands",
                hint=f"It says that it is signed by {self.fingerprint[:60]!r}; the queue's key is {_named(keys)}.",
            )
        return found

    def opened(self, key: OpeningKey) -> bytes:
        """The request inside; RejectedError when this key does not open it."""
        return unseal(self.payload, key)


def unsigned(keys: Sequence[VerifyKey]) -> RejectedError:
    """What is said of a message without a signature on a queue that has these keys."""
    return RejectedError(
        "The message is not signed, and its queue takes signed ones only",
        hint=f"The queue's key is {_named(keys)}.",
    )


def envelope_in(document: Any) -> Envelope | None:
    """The envelope that a message is; None when it is in clear text. RejectedError when it is neither."""
    if not isinstance(document, dict) or "message" not in document or "experiment" in document:
        return None
    message = document["message"]
    if not isinstance(message, dict):
        raise RejectedError("$.message is not an object")
    return Envelope(
        payload=_text(message, "payload") or _missing(),
        signature=_text(message, "signature"),
        fingerprint=_text(message, "fingerprint"),
        advice=_advice(message.get("resources_needed")),
    )


def enclosed(request: Request, key: SealingKey, signing: SigningKey) -> bytes:
    """The request as a message that is sealed for `key` and signed, in the shape that existing clients give it."""
    experiment = request.experiment_document
    payload = seal(request.to_json(), key)
    message = {
        "experiment": {name: experiment.get(name) for name in ("status", "pythonver")},
        "time_added": experiment.get("time_added"),
        "experiment_lifetime": experiment.get("max_duration"),
        "resources_needed": experiment.get("resources_needed"),
        "payload": payload,
        "signature": sign(payload, signing),
        "fingerprint": signing.public.fingerprint,
    }
    return json.dumps({"message": message}).encode()


def _text(message: Mapping[str, Any], name: str) -> str | None:
    """None where it is missing; text that no encoding can hold is somebody's mischief."""
    value = message.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value.isascii():
        raise RejectedError(f"$.message.{name} is not text of ASCII characters")
    return value


def _missing() -> str:
    raise RejectedError("$.message.payload is missing")


def _advice(value: Any) -> Resources:
    """None at all where it cannot be read: what is inside will be."""
    try:
        return Resources.model_validate(value or {})
    except ValidationError:
        return Resources()


def _named(keys: Sequence[VerifyKey]) -> str:
    return " or ".join(key.fingerprint for key in keys)
