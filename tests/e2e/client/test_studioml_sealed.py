"""The StudioML client, unmodified, with `public_key_path` and `signing_key_path`: its own payload builder seals."""

import json
import shutil

import pytest

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]

LOCAL = "local_mine"


@pytest.fixture
def held(tmp_path, keys):
    """What the operator has mounted: the runner's key with its passphrase, and the sender's for their queues."""
    place = tmp_path / "held"
    for source, target in (
        ("runner-pkcs1-encrypted", "own/encryption/ssh-privatekey"),
        ("sender.pub", "senders/rmq_"),
        ("sender.pub", "senders/local_"),
    ):
        (place / target).parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        shutil.copy(keys / source, place / target)
    (place / "own/passphrase").mkdir()
    (place / "own/passphrase/ssh-passphrase").write_text("throw-away\n")
    (place / "own/passphrase/ssh-passphrase").chmod(0o600)
    return place


@pytest.fixture
def sealing(keys):
    """The part of the client's configuration that makes it seal."""
    return {"public_key_path": str(keys / "runner-public-pkcs1.pem"), "signing_key_path": str(keys / "sender")}


@pytest.fixture
def trusting(held):
    return ("--encrypt-dir", str(held / "own"), "--request-signatures-dir", str(held / "senders"))


@pytest.fixture
def ended(client, until):
    """The experiment as the client sees it when it is over."""

    def wait(key):
        return until(lambda: (seen := client.experiment(key))["time_finished"] and seen)

    return wait


def test_what_the_client_seals_and_signs_is_run(
    client, sections, sealing, elsewhere, options, trusting, queue, ended
):
    client.configure(**sections, **sealing)
    with elsewhere.daemon(*options, *trusting):
        words = ("--max-duration", "20m", "train.py", "10", "--rate=0.1", "a b")
        key = client.submit(queue, *words, project=client.project("train.py"))
        assert ended(key)["status"] == "finished"
    assert 'arguments ["10", "--rate=0.1", "a b"]' in client.output(key).splitlines()
    assert "signed by SHA256:" in elsewhere.log()


@pytest.fixture
def on_this_machine(client, machine, sealing):
    kept = machine.home / "kept"
    kept.mkdir()
    section = {"type": "local", "endpoint": str(kept)}
    client.configure(storage={**section, "bucket": "storage"}, database={**section, "bucket": "meta"}, **sealing)
    return machine


def test_the_same_with_one_bit_changed_is_not_run(client, on_this_machine, trusting, until):
    machine = on_this_machine
    key = client.submit(LOCAL, "train.py", "10", project=client.project("train.py"))
    (path,) = machine.waiting(LOCAL)
    body = path.read_bytes()
    payload = json.loads(body)["message"]["payload"].encode()
    assert key.encode() not in body
    start = body.index(payload)
    changes = [bytearray(body) for _ in range(3)]
    for changed, place in zip(changes, (start + 3, start + 1000, body.index(b'"signature": "') + 20), strict=True):
        changed[place] ^= 1
    path.unlink()
    with machine.daemon("--cpu-only", *trusting):
        for changed in changes:
            machine.publish(bytes(changed), LOCAL)
        until(lambda: len(machine.dead_letters(LOCAL)) == len(changes))
        assert client.experiment(key)["time_finished"] is None
        machine.publish(body, LOCAL)
        until(lambda: client.experiment(key)["time_finished"])
    assert all("not of the key" in letter["reason"] for letter in machine.dead_letters(LOCAL))
    assert "python 3 8 with studio" in client.output(key)
