"""Sealed and signed messages against the installed command: what is in order runs, everything else does not."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from studio_runner.messages.envelope import enclosed
from studio_runner.messages.keys import read_opening_key, read_signing_key
from studio_runner.messages.naming import name_if_sealed
from studio_runner.messages.request import parse_request
from studio_runner.messages.signature import sign
from studio_runner.testing import artifact, command_path, installation

QUEUE = "local_signed_1"
OPEN = "local_open"
OTHER = Path(__file__).parents[1] / "keys" / "other-sender.pub"
PATIENCE = 60
WAITS = """
import pathlib, time
gate = pathlib.Path(__file__).resolve().parents[4] / "gate"
while not gate.exists():
    time.sleep(0.05)
"""
HELLO = {"main.py": "print('hello')"}


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """Directories of keys as a runner has them: its own, and a sender's for queues that begin with `local_signed_`."""
    place = tmp_path_factory.mktemp("held")
    for name in ("own/encryption", "own/passphrase", "senders"):
        (place / name).mkdir(parents=True, mode=0o755)
    return place


@pytest.fixture
def keyed(held, keys):
    """The keys as they are when all is well; a test may change them."""
    for source, target in (
        ("runner-pkcs1-encrypted", "own/encryption/ssh-privatekey"),
        ("sender.pub", "senders/local_signed_"),
    ):
        new = held / f"new-{source}"
        shutil.copyfile(keys / source, new)
        new.chmod(0o644 if source.endswith(".pub") else 0o600)
        new.rename(held / target)
    passphrase = held / "own/passphrase/ssh-passphrase"
    passphrase.write_text("throw-away\n")
    passphrase.chmod(0o600)
    return held


@pytest.fixture(scope="module")
def place(cache):
    with installation(cache) as made:
        yield made


@pytest.fixture
def daemon(place, keyed):
    """One runner for all tests of this module, started when the first needs it."""
    options = ("--encrypt-dir", keyed / "own", "--request-signatures-dir", keyed / "senders", "--poll", "100ms")
    with place.daemon(*map(str, options)):
        yield


@pytest.fixture
def sealer(place, keys):
    """An experiment's key and its message."""
    own = read_opening_key((keys / "runner").read_bytes())
    sender = read_signing_key((keys / "sender").read_bytes())

    def seal(files=HELLO, **fields):
        key, body = place.request(place.workspace(files), **fields)
        return key, enclosed(parse_request(body), own.public, sender)

    return seal


def with_fields(message, **fields):
    document = json.loads(message)
    document["message"] |= fields
    return json.dumps(document).encode()


def payload_of(message):
    return json.loads(message)["message"]["payload"]


def flipped(text, place):
    return text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]


def resigned(message, keys):
    other = read_signing_key((keys / "other-sender").read_bytes())
    return with_fields(message, signature=sign(payload_of(message), other), fingerprint=other.public.fingerprint)


def ssh_encoded(message):
    raw = base64.b64decode(json.loads(message)["message"]["signature"])
    blob = b"\0\0\0\x0bssh-ed25519" + b"\0\0\0\x40" + raw
    return with_fields(message, signature=base64.b64encode(blob).decode())


BAD = {
    "one bit of the payload": (lambda m, _: with_fields(m, payload=flipped(payload_of(m), 1200)), "not of the key"),
    "one bit of the wrapped key": (
        lambda m, _: with_fields(m, payload=flipped(payload_of(m), 7)),
        "not of the key",
    ),
    "cut payload": (lambda m, _: with_fields(m, payload=payload_of(m)[:-4]), "not of the key"),
    "no signature": (lambda m, _: with_fields(m, signature=None), "not signed"),
    "no fingerprint": (lambda m, _: with_fields(m, fingerprint=None), "not signed"),
    "another fingerprint": (lambda m, _: with_fields(m, fingerprint="SHA256:x"), "not of the key"),
    "one bit of the signature": (
        lambda m, _: with_fields(m, signature=flipped(json.loads(m)["message"]["signature"], 5)),
        "not of the key",
    ),
    "signed by another known key": (resigned, "not of the key"),
    "cut message": (lambda m, _: m[:-10], "cannot be read"),
    "no payload": (lambda m, _: with_fields(m, payload=None), "payload is missing"),
    "payload no text": (lambda m, _: with_fields(m, payload={}), "payload is not text"),
}


def rejected(place, until, body, queue=QUEUE):
    """The one dead letter that a message becomes; nothing runs of it and no record tells of it."""
    records = place.store / "db" / "experiments"
    before = sorted(records.iterdir()) if records.exists() else []
    earlier = len(place.dead_letters(queue))
    place.publish(body, queue)
    until(lambda: len(place.dead_letters(queue)) > earlier)
    letters = [letter for letter in place.dead_letters(queue) if letter["body"] == body]
    assert letters
    assert (sorted(records.iterdir()) if records.exists() else []) == before
    assert not place.processes()
    return letters[-1]["reason"]


def test_a_sealed_and_signed_experiment_runs_in_both_encodings_of_its_signature(place, daemon, sealer, keys):
    first, message = sealer()
    place.publish(message, QUEUE)
    second, message = sealer()
    place.publish(ssh_encoded(message), QUEUE)
    for key in (first, second):
        assert place.wait(key).ok
        assert place.output(key).endswith("hello\n")
    fingerprint = read_signing_key((keys / "sender").read_bytes()).public.fingerprint
    assert place.log().count(f"signed by {fingerprint}") == 2


def test_everything_else_is_rejected_and_nobody_is_told(place, keyed, daemon, sealer, keys, until):
    shutil.copy(OTHER, keyed / "senders" / "local_others_")  # known, but not for this queue
    for name, (change, words) in BAD.items():
        key, message = sealer()
        body = change(message, keys)
        reason = rejected(place, until, body)
        assert words in reason, name
        assert reason.startswith("unauthorised:"), name
        assert not place.stored(key, "_results").exists(), name
        line = f"experiment={name_if_sealed(body) or '(unreadable)'} "
        until(lambda line=line: line in place.log())
    assert not re.search("INFO +unauthorised", place.log())
    key, message = sealer()
    place.publish(message, QUEUE)
    assert place.wait(key).ok


def test_clear_text_is_refused_wherever_there_are_keys(place, daemon, until):
    for queue, words in ((QUEUE, "not signed"), (OPEN, "in clear text")):
        _, body = place.request(place.workspace(HELLO))
        (place.queue_root / queue).mkdir(exist_ok=True)
        assert words in rejected(place, until, body, queue)


def test_a_message_that_is_played_again_is_noticed_by_this_runner_and_by_the_next(place, keyed, sealer, until):
    key, message = sealer({"main.py": "open('ran', 'w')\nprint('hello')"})
    options = ("--encrypt-dir", keyed / "own", "--request-signatures-dir", keyed / "senders", "--poll", "100ms")
    with place.daemon(*map(str, options)):
        place.publish(message, QUEUE)
        assert place.wait(key).ok
        until(lambda: not place.claimed(QUEUE))
        record, results = place.ended(key), place.stored(key, "_results").stat().st_mtime_ns
        assert "done with before" in rejected_again(place, until, message)
    elsewhere = ("--working-dir", place.home / "another-machine")
    with place.daemon(*map(str, (*options, *elsewhere))):
        assert "done with before" in rejected_again(place, until, message)
    assert place.ended(key) == record
    assert place.stored(key, "_results").stat().st_mtime_ns == results


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_copy_of_a_message_that_is_being_run_is_not_run(place, keyed, daemon, sealer, until):
    key, message = sealer({"main.py": WAITS})
    gate, elsewhere = place.home / "gate", "local_signed_3"
    place.publish(message, QUEUE)
    until(place.processes)
    (place.queue_root / elsewhere).mkdir()

    def reasons():
        letters = [*place.dead_letters(QUEUE), *place.dead_letters(elsewhere)]
        return [letter["reason"] for letter in letters if letter["body"] == message]

    place.publish(message, QUEUE)
    place.publish(message, elsewhere)
    until(lambda: len(reasons()) == 2)
    assert all("is being run" in reason for reason in reasons())
    gate.touch()
    assert place.wait(key).ok
    gate.unlink()


@pytest.mark.parametrize(
    ("results", "runs"),
    [
        ({"exit_msg": "ok", "reason": "completed", "attempt": 2}, False),
        ({"exit_msg": "no index", "reason": "environment_failed", "attempt": 1}, False),
        ({"exit_msg": "no index", "reason": "environment_failed", "attempt": 1, "transient": True}, True),
        ({"exit_msg": "no store", "reason": "storage_unavailable", "attempt": 5}, True),
    ],
)
def test_what_another_machine_did_is_not_run_again_and_what_it_set_aside_is(
    place, daemon, keys, until, results, runs
):
    own = read_opening_key((keys / "runner").read_bytes())
    sender = read_signing_key((keys / "sender").read_bytes())
    key, body = place.request(place.workspace(HELLO))
    fence = place.stored(key, "_results").with_name("_attempt.json")
    fence.parent.mkdir(parents=True, exist_ok=True)
    fence.write_text(json.dumps({"message": hashlib.sha256(body).hexdigest(), "results": results}))
    message = enclosed(parse_request(body), own.public, sender)
    if runs:
        place.publish(message, QUEUE)
        assert place.wait(key).ok
    else:
        assert "done with before" in rejected(place, until, message)
        assert not place.stored(key, "_results").exists()


@pytest.mark.parametrize("lifetime", ["4h", "1s"])
def test_an_old_message_does_not_take_the_place_of_a_newer_one_of_its_key(place, daemon, keys, until, lifetime):
    own = read_opening_key((keys / "runner").read_bytes())
    sender = read_signing_key((keys / "sender").read_bytes())
    key, body = place.request(place.workspace(HELLO), config={"experimentLifetime": lifetime})
    old = parse_request(body)
    old = old.replace(time_added=old.experiment.time_added - 60)
    workspace = artifact(place.workspace({"main.py": "print('newer')"}), mutable=False)
    artifacts = {**old.experiment_document["artifacts"], "workspace": workspace}
    newer = parse_request(place.request(place.workspace(HELLO), key=key, artifacts=artifacts)[1])
    place.publish(enclosed(newer, own.public, sender), QUEUE)
    assert place.wait(key).ok
    record = place.ended(key)
    assert "is older than one" in rejected(place, until, enclosed(old, own.public, sender))
    assert place.results(key).ok
    assert place.output(key).endswith("newer\n")
    assert place.ended(key) == record


def test_what_is_rejected_is_no_experiment_that_a_limit_counts(place, keyed, sealer, until):
    good, message = sealer()
    old, done = sealer()
    options = ("--encrypt-dir", keyed / "own", "--request-signatures-dir", keyed / "senders", "--poll", "100ms")
    with place.daemon(*map(str, options)):
        place.publish(done, QUEUE)
        assert place.wait(old).ok
        until(lambda: not place.claimed(QUEUE))
    for body in (with_fields(message, signature=None), done):
        place.publish(body, QUEUE)
    limits = ("--limit-tasks", "1", "--limit-interval", "1h")
    with place.daemon(*map(str, (*options, *limits))) as process:
        until(lambda: not place.waiting(QUEUE) and not place.claimed(QUEUE))
        assert process.poll() is None
        place.publish(message, QUEUE)
        assert process.wait(PATIENCE) == 0
    assert place.results(good).ok


def rejected_again(place, until, body):
    earlier = len(place.dead_letters(QUEUE))
    place.publish(body, QUEUE)
    until(lambda: len(place.dead_letters(QUEUE)) > earlier)
    return max(place.dead_letters(QUEUE), key=lambda letter: letter["at"])["reason"]


def test_a_sealed_experiment_whose_runner_was_killed_is_run_by_the_next(place, keyed, sealer, until):
    key, message = sealer({"main.py": WAITS})
    gate = place.home / "gate"
    options = ("--encrypt-dir", keyed / "own", "--request-signatures-dir", keyed / "senders", "--lease", "1s")
    process = place.start(*map(str, options))
    place.publish(message, QUEUE)
    until(place.processes)
    process.kill()
    process.wait()
    gate.touch()
    with place.daemon(*map(str, options)):
        assert place.wait(key).ok
    gate.unlink()
    assert not place.leftovers()


def test_a_dead_letter_is_run_when_its_senders_key_is_there(place, keyed, daemon, sealer, until):
    queue = "local_signed_2"
    (place.queue_root / queue).mkdir()
    right = (keyed / "senders" / "local_signed_").read_text()
    shutil.copy(OTHER, keyed / "senders" / "local_signed_")
    key, message = sealer()
    assert "not of the key" in rejected(place, until, message, queue)
    (keyed / "senders" / "local_signed_").write_text(right)
    again = [command_path(), "requeue", queue, "--all"]
    subprocess.run(again, env=place.environment(), check=True, capture_output=True)
    assert place.wait(key).ok


def test_a_key_that_is_being_written_makes_messages_wait_and_loses_none(place, keyed, daemon, sealer, keys, until):
    whole = (keys / "sender.pub").read_text()
    key, message = sealer()
    told = f"messages of queue {QUEUE} wait: "
    before = place.log().count(told)

    def left():
        """Written again and again: a key that stays as it is counts as broken before long."""
        (keyed / "senders" / "local_signed_").write_text(whole[:30])
        return place.log().count(told) > before

    left()
    place.publish(message, QUEUE)
    until(left)
    assert len(place.waiting(QUEUE)) == 1
    (keyed / "senders" / "local_signed_").write_text(whole)
    assert place.wait(key).ok


def test_a_key_that_stays_broken_stops_everything_on_its_queue(place, keyed, daemon, sealer, until):
    (keyed / "senders" / "local_signed_").write_text("ssh-ed25519 AAAA")
    _, message = sealer()
    reason = rejected(place, until, message)
    assert "local_signed_ cannot be used" in reason
    assert "local_signed_ cannot be used" in place.log()


def test_a_runner_whose_own_key_cannot_be_used_says_so_and_does_not_start(place, keyed):
    (keyed / "own/encryption/ssh-privatekey").chmod(0o644)
    process = place.start("--encrypt-dir", str(keyed / "own"))
    assert process.wait(120) == 2
    assert "can be used by others (mode 0644)" in place.log()
    assert "PRIVATE KEY" not in place.log()
