"""Which messages a runner reads, by the keys that it and its queues have."""

import json
import shutil
import time
from pathlib import Path

import pytest

from studio_runner.config.keys.files import SETTLES
from studio_runner.config.settings import TrustSettings
from studio_runner.errors import InvalidMessageError, RejectedError
from studio_runner.machine.inventory import Capacity
from studio_runner.machine.ledger import Ledger
from studio_runner.messages.envelope import enclosed
from studio_runner.messages.keys import read_opening_key, read_signing_key
from studio_runner.messages.naming import name_of
from studio_runner.messages.request import parse_request
from studio_runner.messages.sealing import seal
from studio_runner.messages.signature import sign
from studio_runner.runner.intake import Intake, Quota, Terms
from studio_runner.runner.opener import Opener
from studio_runner.runner.replays import Replays

SAMPLE = (Path(__file__).parents[1] / "samples" / "studioml-0.0.49-rmq-plain.json").read_bytes()
CLEAR = parse_request(SAMPLE).replace(time_added=time.time()).to_json()
KEY = parse_request(CLEAR).key


@pytest.fixture
def trust(tmp_path, keys):
    """A runner with a key, and senders who have one for queues of theirs."""
    own, senders = tmp_path / "own", tmp_path / "senders"
    (own / "encryption").mkdir(parents=True)
    senders.mkdir(mode=0o755)
    shutil.copy(keys / "runner", own / "encryption" / "ssh-privatekey")
    shutil.copy(keys / "sender.pub", senders / "rmq_signed_")
    return TrustSettings(encrypt_dir=own, request_signatures_dir=senders)


@pytest.fixture
def runner_key(keys):
    return read_opening_key((keys / "runner").read_bytes())


@pytest.fixture
def sender(keys):
    return read_signing_key((keys / "sender").read_bytes())


@pytest.fixture
def sealed(runner_key, sender):
    return enclosed(parse_request(CLEAR), runner_key.public, sender)


def changed(message, **fields):
    document = json.loads(message)
    document["message"] |= fields
    return json.dumps(document).encode()


def refused(reading, words):
    assert isinstance(reading.error, RejectedError), reading
    assert words in str(reading.error)
    assert (reading.request, reading.body) == (None, b"")
    return True


def test_a_signed_message_is_opened_and_its_sender_known(trust, sealed, sender):
    reading = Opener(trust).read("rmq_signed_1", sealed)

    assert (reading.request.key, reading.sealed, reading.sender) == (KEY, True, sender.public.fingerprint)
    assert reading.body == CLEAR


def test_where_nobody_must_sign_a_sealed_message_is_opened_too(trust, sealed):
    unsigned = changed(sealed, signature=None, fingerprint=None)
    reading = Opener(trust).read("rmq_open", unsigned)

    assert (reading.request.key, reading.sender) == (KEY, "")


def test_a_queue_with_a_key_takes_signed_messages_only(trust, sealed):
    trust = TrustSettings(**{**vars(trust), "clear_text_messages": True})
    opener = Opener(trust)

    assert refused(opener.read("rmq_signed_1", CLEAR), "not signed")
    assert refused(opener.read("rmq_signed_1", changed(sealed, signature=None)), "not signed")
    assert refused(opener.read("rmq_signed_1", b"{"), "cannot be read")
    assert opener.read("rmq_open", CLEAR).request.key == KEY


def test_a_signature_of_another_known_key_does_not_count(trust, sealed, keys):
    shutil.copy(keys / "other-sender.pub", trust.request_signatures_dir / "rmq_other_")
    other = read_signing_key((keys / "other-sender").read_bytes())
    payload = json.loads(sealed)["message"]["payload"]
    resigned = changed(sealed, signature=sign(payload, other), fingerprint=other.public.fingerprint)

    assert Opener(trust).read("rmq_other_1", resigned).request.key == KEY
    assert refused(Opener(trust).read("rmq_signed_1", resigned), "not of the key")
    assert refused(Opener(trust).read("rmq_other_1", sealed), "not of the key")


def test_what_is_not_signed_is_not_opened(trust, sealed, monkeypatch):
    def opened(*_):
        raise AssertionError

    monkeypatch.setattr("studio_runner.messages.envelope.unseal", opened)

    assert refused(Opener(trust).read("rmq_signed_1", changed(sealed, signature="x")), "not of the key")


def test_a_rejected_message_is_called_what_its_sender_sees_it_called(trust, sealed, runner_key, sender):
    opener = Opener(trust)
    unsigned = changed(sealed, signature=None)
    damaged = json.loads(sealed)["message"]["payload"][:-8] + "AAAAAAA="
    signed = changed(sealed, payload=damaged, signature=sign(damaged, sender))

    for message, words in ((unsigned, "not signed"), (signed, "cannot be opened")):
        reading = opener.read("rmq_signed_1", message)
        assert refused(reading, words)
        assert reading.name == name_of(message)
    assert opener.read("rmq_signed_1", CLEAR).name == "(unreadable)"  # whoever sent it chose its key


def test_clear_text_is_refused_where_there_is_a_key_unless_it_is_allowed(trust):
    assert refused(Opener(trust).read("rmq_open", CLEAR), "in clear text")
    assert Opener(TrustSettings()).read("rmq_open", CLEAR).request.key == KEY
    allowed = TrustSettings(**{**vars(trust), "clear_text_messages": True})
    assert Opener(allowed).read("rmq_open", CLEAR).request.key == KEY


def test_a_request_inside_that_cannot_be_read_is_told_to_its_sender(trust, runner_key, sender):
    payload = seal(b'{"experiment": {"key": "mine", "args": 5}}', runner_key.public)
    body = json.dumps({"message": {"payload": payload, "signature": sign(payload, sender), "fingerprint": sender.public.fingerprint}})  # fmt: skip

    reading = Opener(trust).read("rmq_signed_1", body.encode())

    assert isinstance(reading.error, InvalidMessageError)
    assert reading.body == b'{"experiment": {"key": "mine", "args": 5}}'


def test_after_a_sender_got_a_new_key_the_old_one_no_longer_counts(trust, sealed, keys):
    opener = Opener(trust)
    assert opener.read("rmq_signed_1", sealed).request
    shutil.copy(keys / "other-sender.pub", trust.request_signatures_dir / "rmq_signed_")
    assert refused(opener.read("rmq_signed_1", sealed), "not of the key")


def test_a_key_in_the_making_leaves_messages_where_they_are_and_a_broken_one_refuses_them(
    trust, sealed, monkeypatch
):
    (trust.request_signatures_dir / "rmq_signed_").write_text("ssh-ed25519 AAAA")
    opener = Opener(trust)

    assert opener.read("rmq_signed_1", sealed) is None
    now = time.time
    monkeypatch.setattr("time.time", lambda: now() + SETTLES + 1)
    assert refused(opener.read("rmq_signed_1", sealed), "rmq_signed_ cannot be used")


# -- at the gate of the queues ----------------------------------------------------------------------------------------


def gate(trust, cores=4):
    ledger = Ledger(Capacity(cores=cores, memory=64 * 10**9, disk=10**12))
    return Intake(ledger, Quota(0, 0.0), Terms(cpu_only=True, opener=Opener(trust))), ledger


def test_a_sealed_message_that_is_too_large_by_its_own_advice_is_left_unopened(trust, sealed, monkeypatch):
    monkeypatch.setattr("studio_runner.messages.envelope.unseal", lambda *_: pytest.fail("it was opened"))
    intake, _ = gate(trust)

    assert intake.admit("rmq_signed_1", changed(sealed, resources_needed={"cpus": 5})) is None


def test_once_opened_only_what_is_inside_counts(trust, sealed):
    intake, ledger = gate(trust)

    ticket = intake.admit("rmq_signed_1", changed(sealed, resources_needed={"cpus": 3}))

    wanted = parse_request(CLEAR).resources
    assert ledger.free.cores == 4 - max(1, wanted.cpus)
    assert ticket.reading.request.key == KEY


def test_what_is_refused_needs_no_room(trust, sealed):
    intake, ledger = gate(trust)

    ticket = intake.admit("rmq_signed_1", CLEAR)

    assert refused(ticket.reading, "not signed")
    assert intake.counts.rejected["rmq_signed_1"] == 1
    assert ledger.free.memory == 64 * 10**9


def test_a_runner_without_a_key_leaves_sealed_messages_to_others_and_says_so_once(sealed, caplog):
    intake, _ = gate(TrustSettings())

    assert [intake.admit("rmq_signed_1", sealed) for _ in range(3)] == [None, None, None]
    assert caplog.text.count("this runner has no key to open it") == 1


# -- played again -----------------------------------------------------------------------------------------------------


def test_a_message_that_was_done_with_is_known_to_every_runner_of_the_directory(tmp_path):
    request = parse_request(CLEAR)
    one, other = Replays(tmp_path), Replays(tmp_path)
    assert not other.knows(request)
    one.add(request)
    assert other.knows(request)
    one.close()
    assert Replays(tmp_path).knows(request)


def test_the_same_key_submitted_again_is_another_message(tmp_path):
    request = parse_request(CLEAR)
    replays = Replays(tmp_path)
    replays.add(request)
    assert not replays.knows(request.replace(time_added=request.experiment.time_added + 1))


def test_what_is_over_anyway_is_forgotten(tmp_path):
    request = parse_request(CLEAR)
    over = request.replace(time_added=time.time() - 10**8)
    replays = Replays(tmp_path)
    replays.add(over)
    replays.close()
    assert over.lifetime_deadline
    assert not Replays(tmp_path).knows(over)


def test_a_disk_that_takes_nothing_costs_no_experiment(tmp_path, caplog):
    replays = Replays(tmp_path / "missing")
    replays.add(parse_request(CLEAR))
    assert not replays.knows(parse_request(CLEAR))
    assert "a replay would not be noticed here" in caplog.text
