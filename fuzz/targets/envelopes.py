"""Sealed and signed messages: nothing but what was sealed and signed comes out of one, whatever is done to it."""

import base64
import json
from collections.abc import Iterable
from functools import cache
from typing import Any

from fuzz.picks import Picks
from fuzz.target import SAMPLES, noise
from studio_runner.errors import InvalidMessageError, RejectedError
from studio_runner.messages.envelope import enclosed, envelope_in
from studio_runner.messages.keys import OpeningKey, SigningKey, new_opening_key, new_signing_key
from studio_runner.messages.request import parse_request, read_message
from studio_runner.messages.sealing import seal, unseal
from studio_runner.messages.signature import sign

MAX_LEN = 1024
WORDS = (
    b'{"message":{',
    b'"payload":"',
    b'"signature":"',
    b'"fingerprint":"SHA256:',
    b"AAAA,AAAA",
    b"=",
    b"==",
    b",",
)
_FIELDS = ("payload", "signature", "fingerprint")
_CLEAR = b'{"experiment":{"key":"k","filename":"-m","args":["m"]}}'
_ODD: tuple[Any, ...] = (None, "", 0, [], {}, "é", "\ud800", "A" * 88, ",", "=" * 4, "SHA256:")


@cache
def _keys() -> tuple[OpeningKey, SigningKey, SigningKey]:
    """The runner's, the sender's, and another sender's; made anew for every run."""
    return new_opening_key(), new_signing_key(), new_signing_key()


@cache
def _messages() -> tuple[dict[str, Any], ...]:
    """Genuine ones of two senders."""
    own, sender, other = _keys()
    sample = next(iter(sorted(SAMPLES.glob("*.json")))).read_bytes()
    bodies = [enclosed(parse_request(body), own.public, by) for body in (_CLEAR, sample) for by in (sender, other)]
    return tuple(json.loads(body)["message"] for body in bodies)


def seeds() -> Iterable[bytes]:
    yield (
        b'\0{"message":{"payload":"AAAA,AAAA","signature":"AA==","fingerprint":"SHA256:x","resources_needed":{}}}'
    )
    yield b"\0" + b'{"message":{"payload":null}}'
    yield from (bytes([kind]) + piece for kind in (1, 2, 3) for piece in noise(20, 64))


def check(data: bytes) -> None:
    picks = Picks(data)
    match picks.below(4):
        case 0:
            _judged(picks.rest())
        case 1:
            _changed(picks)
        case 2:
            _put_together(picks)
        case _:
            _unsealed(picks)


def _judged(body: bytes) -> bytes | None:
    """What would be run for the sender; None for a message that is refused or in clear text."""
    own, sender, _ = _keys()
    try:
        envelope = envelope_in(read_message(body))
        if envelope is None:
            return None
        repr(envelope)
        found = envelope.verified([sender.public])
        assert found.fingerprint == sender.public.fingerprint
        return envelope.opened(own)
    except (RejectedError, InvalidMessageError) as error:
        f"{error} {getattr(error, 'hint', '')}".encode()
        return None


def _changed(picks: Picks) -> None:
    """Some bytes of a genuine message."""
    message = _messages()[0]
    body = bytearray(json.dumps({"message": message}).encode())
    for _ in range(1 + picks.below(3)):
        at = picks.below(len(body))
        match picks.below(3):
            case 0:
                body[at] ^= 1 + picks.below(255)
            case 1:
                del body[at : at + 1 + picks.below(4)]
            case _:
                body[at:at] = picks.some(4)
    _check_genuine(bytes(body))


def _put_together(picks: Picks) -> None:
    """Parts of several messages, and things that are none; the signature in either encoding."""
    parts = {name: picks.one((*(message[name] for message in _messages()), *_ODD)) for name in _FIELDS}
    if isinstance(parts["payload"], str) and not picks.below(3):
        left, right = (picks.one(_messages())["payload"].split(",") for _ in range(2))
        parts["payload"] = f"{left[0]},{right[1]}"
    if isinstance(parts["signature"], str) and picks.flag() and parts["signature"].endswith("=="):
        raw = base64.b64decode(parts["signature"])
        parts["signature"] = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x40" + raw).decode()
    parts["resources_needed"] = picks.one(({"cpus": 1}, *_ODD))
    _check_genuine(json.dumps({"message": parts}).encode())


def _check_genuine(body: bytes) -> None:
    """Whatever is accepted has the payload, the signature and the fingerprint of a message that its sender sent."""
    clear = _judged(body)
    if clear is None:
        return
    found = json.loads(body)["message"]
    genuine = [message for message in _messages()[::2] if message["payload"] == found["payload"]]
    assert genuine
    assert found["fingerprint"] == genuine[0]["fingerprint"]
    assert base64.b64decode(found["signature"])[-64:] == base64.b64decode(genuine[0]["signature"])
    assert sign(found["payload"], _keys()[1]) == genuine[0]["signature"]


def _unsealed(picks: Picks) -> None:
    """What is sealed comes out as it went in; with anything changed it does not come out at all."""
    own = _keys()[0]
    clear = picks.some(64)
    sealed = seal(clear, own.public)
    assert unseal(sealed, own) == clear
    changed = bytearray(sealed.encode())
    changed[picks.below(len(changed))] = 33 + picks.below(94)
    if changed.decode() == sealed:
        return
    try:
        unseal(changed.decode(), own)
    except RejectedError:
        return
    raise AssertionError("a changed payload was opened")
