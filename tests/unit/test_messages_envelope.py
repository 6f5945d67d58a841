"""Sealed requests: what existing clients write is read, and no change of a byte gets anything else run."""

import base64
import json
from pathlib import Path

import pytest

from studio_runner.errors import InvalidMessageError, RejectedError
from studio_runner.messages.envelope import enclosed, envelope_in
from studio_runner.messages.keys import read_opening_key, read_signing_key, read_verify_keys
from studio_runner.messages.request import parse_request, read_message
from studio_runner.messages.sealing import seal, unseal
from studio_runner.messages.signature import sign, signer

SAMPLE = Path(__file__).parents[1] / "samples" / "studioml-0.0.49-rmq-plain.json"


@pytest.fixture
def own(keys):
    return read_opening_key((keys / "runner").read_bytes())


@pytest.fixture
def sender(keys):
    return read_signing_key((keys / "sender").read_bytes())


@pytest.fixture
def senders(keys):
    return read_verify_keys((keys / "sender.pub").read_bytes())


@pytest.fixture
def message(own, sender):
    return enclosed(parse_request(SAMPLE.read_bytes()), own.public, sender)


def ssh_blob(signature):
    return base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x40" + base64.b64decode(signature)).decode()


def test_what_is_enclosed_comes_out_as_it_went_in(message, own, sender, senders):
    envelope = envelope_in(read_message(message))

    assert envelope.verified(senders).fingerprint == sender.public.fingerprint
    assert envelope.opened(own) == SAMPLE.read_bytes()


def test_an_envelope_has_the_shape_that_existing_clients_give_it(message):
    inner = json.loads(SAMPLE.read_bytes())["experiment"]

    outer = json.loads(message)["message"]

    assert list(outer) == ["experiment", "time_added", "experiment_lifetime", "resources_needed", "payload", "signature", "fingerprint"]  # fmt: skip
    assert outer["experiment"] == {"status": inner["status"], "pythonver": inner["pythonver"]}
    assert outer["resources_needed"] == inner["resources_needed"]
    assert (outer["time_added"], outer["experiment_lifetime"]) == (inner["time_added"], inner["max_duration"])


def test_both_encodings_of_a_signature_are_read(message, senders):
    document = json.loads(message)
    document["message"]["signature"] = ssh_blob(document["message"]["signature"])

    assert envelope_in(document).verified(senders)


def test_what_an_envelope_advises_is_no_more_than_advice(message):
    document = json.loads(message)
    document["message"]["resources_needed"] = {"cpus": "many"}

    assert envelope_in(document).advice.cpus == 0


def judged(body, senders, own):
    """What would be run, or None."""
    try:
        envelope = envelope_in(read_message(body))
        if envelope is None:
            return None
        envelope.verified(senders)
        return envelope.opened(own)
    except (RejectedError, InvalidMessageError):
        return None


def test_no_change_of_a_byte_gets_anything_else_run(own, sender, senders):
    """The whole envelope, byte by byte. What nobody signed may change; what is run stays the same."""
    body = enclosed(parse_request(SAMPLE.read_bytes()), own.public, sender)
    start = body.index(b'"payload"')
    for place in range(len(body)):
        if 300 < place - start < len(body) - start - 300 and place % 61:
            continue  # in the middle of the payload one byte is like another
        changed = bytearray(body)
        changed[place] ^= 1
        found = judged(bytes(changed), senders, own)
        assert found in (None, SAMPLE.read_bytes()), place
        if place > start + len('"payload": "') and chr(body[place]) not in '{}": ,':
            assert found is None, place


def test_without_a_signature_no_change_of_a_byte_is_opened(own):
    sealed = seal(b"the request", own.public)
    for place in range(len(sealed)):
        changed = sealed[:place] + chr(ord(sealed[place]) ^ 1) + sealed[place + 1 :]
        with pytest.raises(RejectedError):
            unseal(changed, own)


def test_every_bit_of_a_signature_counts(sender, senders):
    raw = sender.sign(b"payload")
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        assert signer("payload", base64.b64encode(changed).decode(), sender.public.fingerprint, senders) is None


@pytest.mark.parametrize("cut", [0, 1, 10, 682, 683, 684, 685, 720, 740, -1, -4])
def test_what_is_cut_short_is_not_opened(own, cut):
    with pytest.raises(RejectedError):
        unseal(seal(b"the request", own.public)[:cut], own)


def test_halves_of_two_messages_make_none(own):
    first, second = seal(b"one", own.public), seal(b"two", own.public)
    with pytest.raises(RejectedError, match="cannot be opened"):
        unseal(f"{first.split(',')[0]},{second.split(',')[1]}", own)


def test_whatever_is_wrong_inside_is_told_in_the_same_words(own, keys):
    """So that nobody can find out by trying which part of it was right."""
    other = read_opening_key((keys / "other-runner").read_bytes())
    wrapped, box = seal(b"the request", own.public).split(",")
    damaged_key = base64.b64encode(bytes(512)).decode()
    damaged_box = base64.b64encode(bytes(60)).decode()
    said = set()
    for sealed in (
        seal(b"x", other.public),
        f"{damaged_key},{box}",
        f"{wrapped},{damaged_box}",
        f"{wrapped[:-4]},{box}",
    ):
        with pytest.raises(RejectedError) as raised:
            unseal(sealed, own)
        said.add((str(raised.value), raised.value.hint))
    assert len(said) == 1


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("signature", None, "is not signed"),
        ("fingerprint", None, "is not signed"),
        ("signature", "", "is not of the key"),
        ("signature", "====", "is not of the key"),
        ("signature", [1], "is not text"),
        ("fingerprint", "SHA256:other", "is not of the key"),
        ("fingerprint", "SHA256:gräben", "is not text"),
        ("payload", "é", "is not text"),
        ("payload", "", "is missing"),
        ("payload", None, "is missing"),
    ],
)
def test_what_is_wrong_outside_is_told(message, senders, name, value, words):
    document = json.loads(message)
    document["message"][name] = value

    with pytest.raises(RejectedError, match=words):
        envelope_in(document).verified(senders)


def test_a_signature_of_another_key_is_none_whatever_fingerprint_it_comes_with(message, senders, keys):
    other = read_signing_key((keys / "other-sender").read_bytes())
    document = json.loads(message)
    document["message"]["signature"] = sign(document["message"]["payload"], other)
    for fingerprint in (other.public.fingerprint, senders[0].fingerprint):
        document["message"]["fingerprint"] = fingerprint
        with pytest.raises(RejectedError, match="not of the key"):
            envelope_in(document).verified(senders)


def test_clear_text_is_no_envelope():
    assert envelope_in(json.loads(SAMPLE.read_bytes())) is None
    assert envelope_in([1]) is None


def test_an_envelope_that_is_none_is_rejected():
    with pytest.raises(RejectedError, match="not an object"):
        envelope_in({"message": 5})
