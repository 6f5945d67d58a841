"""`studio-runner keys`: what it makes is what ssh-keygen makes, safely, and what it says of keys is true."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from studio_runner.cli import main
from studio_runner.config.keys.files import KeyDirectory, OpeningKeyFile
from studio_runner.messages.keys import read_sealing_key, read_verify_keys


@pytest.fixture
def call(_same_log, tmp_path, monkeypatch, capsys):
    """Run `studio-runner keys ...` in an empty directory: (exit code, stdout, stderr)."""
    monkeypatch.setattr("studio_runner.config.cascade.SYSTEM_FILE", tmp_path / "none.toml")
    monkeypatch.chdir(tmp_path)

    def calling(*arguments):
        code = main.call(["keys", *map(str, arguments)], {"HOME": str(tmp_path)})
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return calling


@pytest.fixture
def ok(call):
    def calling(*arguments):
        code, out, err = call(*arguments)
        assert (code, err) == (0, "")
        return out

    return calling


@pytest.fixture
def passphrase(tmp_path):
    path = tmp_path / "passphrase"
    path.write_text("throw away\n")
    path.chmod(0o600)
    return path


def modes(directory):
    return {str(path.relative_to(directory)): stat.S_IMODE(path.stat().st_mode) for path in directory.rglob("*")}


def ssh_keygen(*arguments):
    return subprocess.run(
        ["ssh-keygen", *map(str, arguments)], check=True, capture_output=True, text=True, timeout=30
    ).stdout


def test_a_pair_to_sign_with(ok, tmp_path):
    made = json.loads(ok("make", "signing", "new/place/key", "--comment", "me, at home", "--json"))

    place = tmp_path / "new/place"
    assert modes(tmp_path / "new") == {"place": 0o700, "place/key": 0o600, "place/key.pub": 0o644}
    assert ssh_keygen("-lf", place / "key.pub") == f"256 {made['fingerprint']} me, at home (ED25519)\n"
    assert ssh_keygen("-yf", place / "key").split()[:2] == (place / "key.pub").read_text().split()[:2]
    assert ok("fingerprint", "new/place/key", "new/place/key.pub").split() == [made["fingerprint"]] * 2


def test_a_pair_for_a_runner(ok, tmp_path, passphrase):
    made = json.loads(ok("make", "encryption", "enc", "--passphrase-file", passphrase, "--json"))

    assert modes(tmp_path / "enc") == {
        "encryption": 0o700,
        "encryption/ssh-privatekey": 0o600,
        "encryption/ssh-publickey": 0o644,
        "passphrase": 0o700,
        "passphrase/ssh-passphrase": 0o600,
    }
    assert stat.S_IMODE((tmp_path / "enc").stat().st_mode) == 0o700
    private, public = (tmp_path / "enc/encryption" / name for name in ("ssh-privatekey", "ssh-publickey"))
    assert private.read_text().startswith("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n")
    assert public.read_text().startswith("-----BEGIN RSA PUBLIC KEY-----\n")
    assert OpeningKeyFile(tmp_path / "enc").key().public == read_sealing_key(public.read_bytes())
    line = ssh_keygen("-y", "-P", "throw away", "-f", private)
    assert read_sealing_key(line.encode()).fingerprint == made["fingerprint"]
    shown = json.loads(ok("show", private, "--passphrase-file", passphrase, "--json"))
    assert [(one["encrypted"], one["bits"], one["note"]) for one in shown] == [(True, 4096, None)]


def test_a_pair_to_read_reports_with(ok, tmp_path):
    ok("make", "reports", "reader")

    assert modes(tmp_path) == {"reader": 0o600, "reader.pub": 0o644}
    assert (tmp_path / "reader.pub").read_text().startswith("-----BEGIN RSA PUBLIC KEY-----\n")


@pytest.mark.parametrize("there", ["key", "key.pub"])
def test_no_file_is_written_over(call, tmp_path, there):
    (tmp_path / there).symlink_to("elsewhere")

    code, _, err = call("make", "signing", "key")

    assert code == 2
    assert f"There is a file {there} already" in err
    assert os.listdir(tmp_path) == [there], "nor is half of a pair left"


def test_no_private_key_is_readable_for_a_moment(ok, monkeypatch, tmp_path):
    opened = []
    real = os.open

    def watching(path, flags, mode=0o777, **more):
        descriptor = real(path, flags, mode, **more)
        if flags & os.O_CREAT:
            opened.append((Path(path).name, stat.S_IMODE(os.fstat(descriptor).st_mode), bool(flags & os.O_EXCL)))
        return descriptor

    monkeypatch.setattr(os, "open", watching)
    before = os.umask(0)
    try:
        ok("make", "signing", "key")
    finally:
        os.umask(before)

    assert opened == [("key", 0o600, True), ("key.pub", 0o644, True)]


def test_what_is_for_others_they_can_read_whatever_the_umask(ok, keys, tmp_path):
    before = os.umask(0o077)
    try:
        ok("make", "signing", "key")
        ok("trust", "rmq_", "key.pub", "--request-signatures-dir", "senders")
    finally:
        os.umask(before)

    assert modes(tmp_path)["key.pub"] == modes(tmp_path)["senders/rmq_"] == 0o644
    assert modes(tmp_path)["senders"] == 0o755


def test_what_cannot_be_written_leaves_nothing_behind(call, tmp_path):
    (tmp_path / "file").touch()

    code, _, err = call("make", "signing", "file/key")

    assert code == 2
    assert err.startswith("Error: The key file ")
    assert os.listdir(tmp_path) == ["file"]


def test_a_passphrase_that_is_too_long_is_refused(call, passphrase, tmp_path):
    passphrase.write_text("x" * 1024)

    code, _, err = call("make", "signing", "key", "--passphrase-file", passphrase)

    assert code == 2
    assert "at most 1023" in err
    assert not (tmp_path / "key").exists()


def test_a_passphrase_is_never_asked_for_where_nobody_is(call):
    code, _, err = call("make", "signing", "key", "--passphrase")

    assert code == 2
    assert "Nobody is here to type a passphrase" in err


FORMS = {
    "sender": ("Ed25519", "OpenSSH", None),
    "sender.pub": ("Ed25519", "OpenSSH line", None),
    "sender-encrypted": ("Ed25519", "OpenSSH", "existing clients cannot use it: it has a passphrase"),
    "runner": ("RSA", "PKCS#1 PEM", None),
    "runner-pkcs8": ("RSA", "PKCS#8 PEM", "existing runners cannot use it"),
    "runner-pkcs8-encrypted": ("RSA", "PKCS#8 PEM", "existing runners cannot use it"),
    "runner-openssh-encrypted": ("RSA", "OpenSSH", "existing runners cannot use it"),
    "runner-public-pkcs1.pem": ("RSA", "PKCS#1 PEM", None),
    "runner-public-spki.pem": ("RSA", "SubjectPublicKeyInfo PEM", "existing runners cannot use it as it is"),
    "runner.pub": ("RSA", "OpenSSH line", "existing runners cannot use it as it is"),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_key_is_shown_for_what_it_is(ok, keys, passphrase, name):
    kind, form, note = FORMS[name]
    passphrase.write_text("throw-away")

    [shown] = json.loads(ok("show", keys / name, "--passphrase-file", passphrase, "--json"))

    same = name if form == "OpenSSH" else "sender.pub" if kind == "Ed25519" else "runner.pub"
    assert (shown["kind"], shown["form"]) == (kind, form)
    assert shown["fingerprint"] == ssh_keygen("-lf", keys / same).split()[1]
    assert (shown["private"], shown["encrypted"]) == (not Path(name).suffix, "encrypted" in name)
    assert (shown["note"] or "").startswith(note or "")
    assert bool(shown["note"]) == bool(note)


def test_a_key_that_others_can_use_is_called_that(call, keys):
    (keys / "sender").chmod(0o644)
    (keys / "sender.pub").chmod(0o666)

    code, out, _ = call("show", keys / "sender", keys / "sender.pub")

    assert code == 1
    assert "can be used by others (mode 0644). chmod 600" in out
    assert "can be changed by others (mode 0666)" in out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ecdsa", "is neither an RSA nor an Ed25519 key"),
        ("short", "RSA key of 2048 bits"),
        ("runner-pkcs1-encrypted", "it is encrypted, and nobody is here to type its passphrase"),
        ("missing", "No such file"),
        ("garbage", "no public key"),
        ("empty", "it is empty"),
        (".", "is no regular file"),
    ],
)
def test_what_cannot_be_shown_is_a_sentence_and_the_others_are_shown(call, keys, name, words):
    (keys / "garbage").write_bytes(b"\xff\0")
    (keys / "empty").touch()

    code, out, err = call("show", keys / name, keys / "sender.pub")

    assert code == 1
    assert words in err
    assert "Traceback" not in err
    assert "Ed25519, 256 bits, public" in out


def test_whose_messages_are_taken(call, ok, keys, tmp_path):
    directory = tmp_path / "senders"
    words = ("--request-signatures-dir", directory)
    senders = KeyDirectory(directory, read_verify_keys)

    said = ok("trust", "rmq_team", keys / "sender.pub", *words)
    assert ok("fingerprint", keys / "sender.pub").strip() in said
    assert senders.of("rmq_team_a") == read_verify_keys((keys / "sender.pub").read_bytes())
    ok("trust", "rmq_team", keys / "sender.pub", *words)

    code, _, err = call("trust", "rmq_team", keys / "other-sender.pub", *words)
    assert code == 2
    assert "--add" in err
    assert len(senders.of("rmq_team")) == 1

    ok("trust", "rmq_team", keys / "other-sender.pub", "--add", *words)
    ok("trust", "rmq_team", keys / "other-sender.pub", "--add", *words)
    assert len(senders.of("rmq_team")) == 2
    ok("trust", "rmq_team", keys / "other-sender.pub", "--replace", *words)
    assert senders.of("rmq_team") == read_verify_keys((keys / "other-sender.pub").read_bytes())
    assert os.listdir(directory) == ["rmq_team"]


def test_for_whom_reports_are_sealed(call, ok, keys, tmp_path):
    directory = tmp_path / "readers"
    words = ("--response-signatures-dir", directory)

    ok("trust", "rmq_", keys / "runner.pub", *words)

    assert (directory / "rmq_").read_bytes() == (keys / "runner-public-pkcs1.pem").read_bytes()
    assert "one key" in call("trust", "rmq_", keys / "runner.pub", "--add", *words)[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rmq_x", "sender"), "accepted are the public halves"),
        (("rmq_x", "ecdsa.pub"), "neither an RSA nor an Ed25519"),
        (("team", "sender.pub"), "No queue's name begins with 'team'"),
        (("rmq_../x", "sender.pub"), "No queue's name begins with"),
        (("rmq_team_*", "sender.pub"), "Leave the pattern"),
        (("rmq_team_.pub", "sender.pub"), "Leave the pattern, or the ending"),
        (("rmq_x", "sender.pub", "--add", "--replace"), "choose one"),
        (("rmq_x", "missing"), "cannot be read"),
        (("rmq_x", "runner.pub"), "trust.response_signatures_dir has no value"),
    ],
)
def test_what_is_not_to_be_trusted_is_refused(call, keys, tmp_path, arguments, words):
    queue, name, *more = arguments

    code, _, err = call("trust", queue, keys / name, *more, "--request-signatures-dir", tmp_path / "senders")

    assert code == 2
    assert words in err
    assert not (tmp_path / "senders").exists()
