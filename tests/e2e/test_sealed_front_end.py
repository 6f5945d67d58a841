"""The installed command between two people who do not trust what lies between them: a sender with a key to sign, an
operator whose runner opens what is sealed for it."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from studio_runner.messages.envelope import envelope_in
from studio_runner.messages.keys import read_opening_key, read_verify_keys

COMMAND = Path(sys.executable).parent / "studio-runner"
PATIENCE = 120
QUEUE = "local_sealed"
CANARY = "canary-of-the-environment"

HELLO = """
import os
print("hello", os.environ["WORD"][::-1])
"""


@dataclass(frozen=True)
class Person:
    """Somebody's home; queue and store are everybody's."""

    home: Path
    shared: Path

    @property
    def environ(self):
        kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_"))}
        places = {"QUEUE_ROOT": str(self.shared / "queue"), "STUDIO_RUNNER_STORE": str(self.shared / "store")}
        return {
            **kept,
            **places,
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "STUDIO_RUNNER_HTTP_ADDRESS": "",
        }

    def call(self, *arguments):
        return subprocess.run(
            [COMMAND, *map(str, arguments)],
            check=False, capture_output=True, text=True, timeout=PATIENCE, cwd=self.home, env=self.environ,
        )  # fmt: skip

    def ok(self, *arguments):
        done = self.call(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def configure(self, **keys):
        place = self.home / ".studioml"
        place.mkdir(exist_ok=True)
        document = {"queue": QUEUE, "env": {"WORD": CANARY}, **keys}
        (place / "config.yaml").write_text(json.dumps(document))


@pytest.fixture
def people(tmp_path):
    homes = [tmp_path / name for name in ("sender", "operator", "shared")]
    for home in homes:
        home.mkdir()
    (homes[0] / "train.py").write_text(HELLO)
    return Person(homes[0], homes[2]), Person(homes[1], homes[2])


@pytest.fixture
def sender(people, operator):
    """Has made a key, and told the operator."""
    person = people[0]
    person.ok("keys", "make", "signing", person.home / "key")
    operator.ok("keys", "trust", "local_", person.home / "key.pub", "--request-signatures-dir", "senders")
    person.configure(public_key_path=str(operator.home / "enc/encryption/ssh-publickey"), signing_key_path="~/key")
    return person


@pytest.fixture
def operator(people):
    """Has made a key for the runner."""
    person = people[1]
    person.ok("keys", "make", "encryption", "enc")
    return person


@contextmanager
def runner(operator):
    words = ("--encrypt-dir", "enc", "--request-signatures-dir", "senders", "--cpu-only")
    process = subprocess.Popen(
        [COMMAND, "start", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=operator.home, env=operator.environ,
    )  # fmt: skip
    said = []
    try:
        yield said
    finally:
        process.send_signal(signal.SIGTERM)
        said.append(process.communicate(timeout=PATIENCE)[0])
        assert process.returncode == 0, said


def messages(person):
    place = person.shared / "queue" / QUEUE
    return [path.read_bytes() for path in place.iterdir() if path.is_file()] if place.exists() else []


SLOW = """
import time
print("begun", flush=True)
time.sleep(600)
"""


def test_from_submit_to_output_nobody_between_can_read_it(sender, operator):
    assert "sending: messages are sealed for SHA256:" in sender.call("doctor").stdout

    said = sender.call("submit", "-e", "sealed-experiment", "train.py", "secret-argument").stderr

    [message] = messages(sender)
    runners = operator.ok("keys", "fingerprint", "enc/encryption/ssh-privatekey").strip()
    assert f"sealed for {runners}, signed by {sender.ok('keys', 'fingerprint', 'key').strip()}" in said
    for secret in (b"sealed-experiment", b"secret-argument", b"train.py", CANARY.encode(), b"/key"):
        assert secret not in message
    envelope = envelope_in(json.loads(message))
    assert envelope.verified(read_verify_keys((operator.home / "senders/local_").read_bytes()))
    clear = envelope.opened(read_opening_key((operator.home / "enc/encryption/ssh-privatekey").read_bytes()))
    assert json.loads(clear)["experiment"]["key"] == "sealed-experiment"
    assert b"key_path" not in clear
    assert f" {envelope.name}\n" in sender.ok("show", "last")

    with runner(operator):
        again = sender.ok("rerun", "last").strip()
        assert "hello" in sender.ok("logs", "-f", "sealed-experiment")
        assert CANARY[::-1] in sender.ok("logs", "-f", again)
    assert messages(sender) == []


def test_the_signing_key_does_not_travel_with_the_directory_that_it_is_in(sender):
    sender.configure(public_key_path="enc.pub", signing_key_path="key", signing_key_passphrase_path="canary-words")
    (sender.home / "enc.pub").write_bytes(
        (sender.home.parent / "operator/enc/encryption/ssh-publickey").read_bytes()
    )
    (sender.home / "canary-words").write_text("canary-of-the-key")
    (sender.home / "canary-words").chmod(0o600)

    said = sender.call(
        "submit", "--capture", f"{sender.home}:all", "--capture-once", f"{sender.home}:same", "train.py"
    )

    assert said.returncode == 0, said.stderr
    assert said.stderr.count("key is left out: it is your signing key") == 3
    stored = [path.read_bytes() for path in (sender.shared / "store").rglob("*") if path.is_file()]
    assert any(HELLO.encode() in content for content in stored)
    for content in stored:
        assert b"PRIVATE KEY" not in content
        assert b"canary-of-the-key" not in content


def test_what_was_changed_on_its_way_ends_with_the_dead_letters(sender, operator):
    sender.ok("submit", "train.py")
    [path] = [path for path in (sender.shared / "queue" / QUEUE).iterdir() if path.is_file()]
    body = path.read_bytes()
    path.write_bytes(body.replace(b'"signature": "', b'"signature": "A'))

    with runner(operator) as said:
        until(lambda: json.loads(operator.ok("queues", QUEUE, "--json")))
    [letter] = json.loads(operator.ok("queues", QUEUE, "--json"))
    assert letter["experiment"].startswith("(sealed ")
    assert "signature" in letter["reason"]
    assert CANARY not in said[0]
    assert "1 message is back" in operator.ok("requeue", QUEUE, letter["name"])


def test_stop_takes_what_waits_sealed_off_its_queue(sender):
    sender.ok("submit", "-e", "one", "train.py")
    sender.ok("submit", "-e", "two", "train.py")

    assert sender.ok("stop", "one") == "Experiment one was waiting and is off its queue.\n"

    assert len(messages(sender)) == 1
    assert json.loads(sender.ok("show", "two", "--json"))["status"] == "waiting"


def test_stop_of_what_cannot_be_found_says_no_more_than_is_so(sender, operator):
    (sender.home / "train.py").write_text(SLOW)
    sender.ok("submit", "-e", "one", "train.py")
    record = sender.shared / "store/db/experiments/one"
    document = json.loads(record.read_bytes())
    del document["studio_runner"]["sealed"]  # as the record of an existing client
    record.write_text(json.dumps(document))

    assert "is to be stopped, by the runner that has it or will take it" in sender.ok("stop", "one")

    assert len(messages(sender)) == 1
    with runner(operator):
        until(lambda: json.loads(sender.ok("show", "one", "--json"))["status"] == "stopped")
    assert "stopped" in sender.ok("logs", "one")


@pytest.mark.parametrize("command", [("submit", "train.py"), ("rerun", "first")])
@pytest.mark.parametrize("mistake", ["no signing key", "no public key", "open signing key", "wrong key"])
def test_without_good_keys_nothing_is_stored_or_queued(sender, command, mistake):
    sender.ok("submit", "-e", "first", "train.py")
    before = {path: path.stat().st_mtime_ns for path in sender.shared.rglob("*")}
    public, signing = sender.home.parent / "operator/enc/encryption/ssh-publickey", sender.home / "key"
    keys = {"public_key_path": str(public), "signing_key_path": str(signing)}
    match mistake:
        case "no signing key":
            del keys["signing_key_path"]
        case "no public key":
            del keys["public_key_path"]
        case "open signing key":
            signing.chmod(0o644)
        case "wrong key":
            keys["public_key_path"] = str(signing.with_suffix(".pub"))
    sender.configure(**keys)

    done = sender.call(*command)

    assert done.returncode == 2
    assert done.stderr.count("\n") == 2, "a sentence and a hint"
    assert "Traceback" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in sender.shared.rglob("*")} == before


def test_check_says_what_keeps_a_sealed_message_from_being_opened(sender, operator):
    sender.ok("submit", "train.py")
    [path] = [path for path in (sender.shared / "queue" / QUEUE).iterdir() if path.is_file()]

    done = operator.call("check", path)
    assert done.returncode == 1
    assert "no key to open it (--encrypt-dir)\n          docs/how-to/encrypt-and-sign.md" in done.stdout
    assert "valid, sealed" in operator.ok("check", "--encrypt-dir", "enc", path)


def test_run_needs_no_keys(sender):
    sender.configure(public_key_path="/no/such/key", signing_key_path="/no/such/key")

    assert "hello" in sender.ok("run", "train.py")


def test_a_passphrase_is_asked_of_who_is_at_the_terminal_and_shown_nowhere(people, operator):
    sender, secret = people[0], b"throw away\n"
    sender.configure(public_key_path=str(operator.home / "enc/encryption/ssh-publickey"), signing_key_path="~/key")

    made = at_a_terminal(sender, ["keys", "make", "signing", "key", "--passphrase"], secret * 2)
    said = at_a_terminal(sender, ["submit", "train.py"], secret)

    assert b"sealed for SHA256:" in said
    assert secret.strip() not in made + said
    assert len(messages(sender)) == 1
    unattended = sender.call("submit", "train.py")
    assert unattended.returncode == 2
    assert "signing_key_passphrase_path" in unattended.stderr


def at_a_terminal(person, words, typed):
    """What the command says to somebody who types this, line by line, whenever it asks."""
    said, lines = b"", typed.splitlines(keepends=True)
    ours, theirs = pty.openpty()
    with open(ours, "r+b", buffering=0) as end, subprocess.Popen(
        ["setsid", "--ctty", "--wait", COMMAND, *words],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=person.home, env={**person.environ, "TERM": "dumb"},
    ) as process:  # fmt: skip
        os.close(theirs)
        with suppress(OSError):  # nobody is at the other end any more
            while piece := end.read(4096):
                said += piece
                if said.endswith(b": ") and lines:
                    end.write(lines.pop(0))
    assert process.returncode == 0, said
    return said


def until(true):
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
