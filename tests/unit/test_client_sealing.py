"""How the front end sends requests, as the StudioML configuration has it."""

import json
from pathlib import Path

import pytest

from studio_runner.client.holdings import opened_holdings
from studio_runner.client.request import request_config
from studio_runner.client.sealing import in_clear_text, post_of
from studio_runner.client.stop import Stopped, stop
from studio_runner.client.stores import stores_of
from studio_runner.client.submit import Desk, publish
from studio_runner.config.settings import StorageSettings
from studio_runner.config.studioml import StudioConfig, parse_studio_config
from studio_runner.errors import ConfigError, KeyLockedError
from studio_runner.messages.envelope import envelope_in
from studio_runner.messages.keys import read_opening_key, read_verify_keys
from studio_runner.messages.request import parse_request
from studio_runner.queues.memory import MemoryBroker

SAMPLE = Path(__file__).parents[1] / "samples" / "studioml-0.0.49-local-plain.json"


def nobody(path):
    raise KeyLockedError("nobody is here")


def configured(public, signing, **more):
    paths = {"public_key_path": public, "signing_key_path": signing, **more}
    text = json.dumps({name: str(path) for name, path in paths.items() if path})
    return parse_studio_config(text, Path("/c/config.yaml"), {"HOME": "/home/me", "KEYS": "/keys"})


@pytest.fixture
def request_():
    return parse_request(SAMPLE.read_bytes())


def test_without_keys_requests_are_sent_as_they_are(request_):
    assert post_of(StudioConfig(), nobody) is in_clear_text
    assert in_clear_text(request_).body == request_.to_json()


@pytest.mark.parametrize("public", ["runner-public-pkcs1.pem", "runner-public-spki.pem", "runner.pub"])
def test_with_keys_the_runner_can_open_them_and_see_whose_they_are(request_, keys, public):
    posted = post_of(configured(keys / public, keys / "sender"), nobody)(request_)

    envelope = envelope_in(json.loads(posted.body))
    assert envelope.verified(read_verify_keys((keys / "sender.pub").read_bytes()))
    assert envelope.opened(read_opening_key((keys / "runner").read_bytes())) == request_.to_json()
    assert posted.sealed == envelope.name
    assert request_.key.encode() not in posted.body


def test_paths_know_the_home_directory_and_variables():
    config = configured("~/keys/runner.pem", "$KEYS/sender")

    assert (config.public_key_path, config.signing_key_path) == (
        Path("/home/me/keys/runner.pem"),
        Path("/keys/sender"),
    )


def test_runners_are_not_told_where_the_keys_are(keys):
    config = configured(keys / "runner.pub", keys / "sender", signing_key_passphrase_path="/p")

    assert str(keys) not in json.dumps(request_config(config, stores_of(config, Path("/store"))))


def test_a_passphrase_comes_from_its_file_or_from_whom_one_can_ask(request_, keys):
    passphrase = keys / "passphrase"
    passphrase.write_text("throw-away\n")
    passphrase.chmod(0o600)
    kept = configured(keys / "runner.pub", keys / "sender-encrypted", signing_key_passphrase_path=passphrase)

    assert post_of(kept, nobody)(request_).sealed
    asked = configured(keys / "runner.pub", keys / "sender-encrypted")
    assert post_of(asked, lambda path: b"throw-away" if path == keys / "sender-encrypted" else b"")(request_).sealed
    with pytest.raises(ConfigError, match=r"signing_key_path, .*/sender-encrypted, cannot be used: nobody is here"):
        post_of(asked, nobody)


@pytest.mark.parametrize(
    ("public", "signing", "words"),
    [
        (None, "sender", r"has signing_key_path and no public_key_path: .* sealed and signed, or neither"),
        ("runner.pub", None, r"has public_key_path and no signing_key_path"),
        ("missing", "sender", r"/missing cannot be read: No such file"),
        ("runner.pub", "missing", r"/missing cannot be read: No such file"),
        ("runner", "sender", r"public_key_path, .*: it is an RSA key with its private half, accepted is the public"),
        ("sender.pub", "sender", r"public_key_path, .*: it is the public half of an Ed25519 key, accepted"),
        ("short.pub", "sender", r"public_key_path, .* of 2048 bits"),
        ("runner.pub", "sender.open", r"sender\.open can be used by others \(mode 0644\)"),
        ("runner.pub", "runner", r"signing_key_path, .*: it is an RSA key with its private half, accepted is an Ed25519"),
        ("runner.pub", "sender.pub.closed", r"signing_key_path, .*: it is the public half of an Ed25519 key"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named_before_anything_is_done(keys, public, signing, words):
    (keys / "sender.open").write_bytes((keys / "sender").read_bytes())
    (keys / "sender.open").chmod(0o644)
    (keys / "sender.pub.closed").write_bytes((keys / "sender.pub").read_bytes())
    (keys / "sender.pub.closed").chmod(0o600)

    with pytest.raises(ConfigError, match=words) as caught:
        post_of(configured(public and keys / public, signing and keys / signing), nobody)
    assert caught.value.hint


@pytest.mark.parametrize("value", ['""', '"$EMPTY"', "[a]"])
def test_a_key_without_a_path_is_no_reason_to_send_in_clear_text(value):
    with pytest.raises(ConfigError, match="line 2: public_key_path is"):
        parse_studio_config(f"x: 1\npublic_key_path: {value}\n", Path("/c/config.yaml"), {"EMPTY": ""})


async def test_what_waits_sealed_is_taken_off_its_queue_all_the_same(request_, keys, tmp_path):
    config = configured(keys / "runner.pub", keys / "sender")
    async with (
        MemoryBroker() as broker,
        opened_holdings(config, stores_of(config, tmp_path / "store"), StorageSettings()) as holdings,
    ):
        desk = Desk(holdings, broker, None, print, post_of(config, nobody))
        await publish(request_, "local_q", desk)
        await broker.publish("local_q", post_of(config, nobody)(request_).body)

        record = await holdings.records.read(request_.key)
        assert await stop(record, holdings.records, broker, holdings.opener) is Stopped.WITHDRAWN
        assert (await broker.status("local_q")).waiting == 1, "the other message is another's"
        assert (await holdings.records.read(request_.key)).over
