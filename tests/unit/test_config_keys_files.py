"""Key files on the disk: whose they are, which one a queue has, and what happens while they are being written."""

import logging
import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from studio_runner.config.keys.files import (
    LARGEST,
    SETTLES,
    KeyDirectory,
    OpeningKeyFile,
    private_content,
    public_content,
)
from studio_runner.errors import KeyFileError, KeyUnsettledError
from studio_runner.messages.keys import read_verify_keys

PASSPHRASE = "throw-away"
NOBODY = 65534


@pytest.fixture
def senders(tmp_path):
    directory = tmp_path / "senders"
    directory.mkdir(mode=0o755)
    return KeyDirectory(directory, read_verify_keys)


@pytest.fixture
def line(keys):
    return (keys / "sender.pub").read_text()


@pytest.fixture
def other_line(keys):
    return (keys / "other-sender.pub").read_text()


def put(directory, name, content):
    path = directory.path / name
    path.write_text(content)
    path.chmod(0o644)
    return path


def found(directory, queue):
    keys = directory.of(queue)
    return keys and [key.fingerprint for key in keys]


def of(line):
    return [key.fingerprint for key in read_verify_keys(line.encode())]


def settled(monkeypatch):
    """As if everything had been there for a while."""
    now = time.time
    monkeypatch.setattr("time.time", lambda: now() + SETTLES + 1)


def test_the_longest_beginning_of_a_queues_name_has_its_key(senders, line, other_line):
    put(senders, "rmq_cpu_", line)
    put(senders, "rmq_cpu_andrei_", other_line)

    assert found(senders, "rmq_cpu_karl") == of(line)
    assert found(senders, "rmq_cpu_andrei_1") == of(other_line)
    assert found(senders, "rmq_gpu") is None


def test_keys_appear_change_and_vanish_while_it_is_looked_at(senders, line, other_line):
    assert found(senders, "rmq_a") is None
    path = put(senders, "rmq_", line)
    assert found(senders, "rmq_a") == of(line)
    path.write_text(other_line)
    assert found(senders, "rmq_a") == of(other_line)
    path.unlink()
    assert found(senders, "rmq_a") is None


def test_what_kubernetes_mounts_is_followed_through_its_swap(senders, line, other_line):
    """Links to `..data/NAME`, and `..data` is a link that is replaced as a whole."""
    root = senders.path
    root.chmod(0o1777)
    for version, content in (("..2026_a", line), ("..2026_b", other_line)):
        (root / version).mkdir()
        (root / version / "rmq_").write_text(content)
        (root / version / "rmq_").chmod(0o644)
    (root / "..data").symlink_to("..2026_a")
    (root / "rmq_").symlink_to("..data/rmq_")
    (root / "info").write_text("not a key")
    assert found(senders, "rmq_a") == of(line)
    assert found(senders, "info_x") is None

    (root / "..data_tmp").symlink_to("..2026_b")
    (root / "..data_tmp").rename(root / "..data")
    assert found(senders, "rmq_a") == of(other_line)
    shutil.rmtree(root / "..2026_a")
    assert found(senders, "rmq_a") == of(other_line)


def test_a_key_that_is_half_written_makes_its_messages_wait(senders, line):
    put(senders, "rmq_", line[: len(line) // 2])
    with pytest.raises(KeyUnsettledError, match="rmq_ cannot be used"):
        senders.of("rmq_a")
    put(senders, "rmq_", line)
    assert found(senders, "rmq_a") == of(line)


def test_a_key_that_stays_broken_is_broken(senders, line, monkeypatch):
    put(senders, "rmq_", line[: len(line) // 2])
    settled(monkeypatch)
    with pytest.raises(KeyFileError, match="rmq_ cannot be used: it holds no public key"):
        senders.of("rmq_a")


def test_a_broken_key_does_not_give_way_to_a_shorter_name(senders, line, monkeypatch):
    put(senders, "rmq_", line)
    put(senders, "rmq_a", "")
    settled(monkeypatch)
    with pytest.raises(KeyFileError, match="rmq_a cannot be used: it is empty"):
        senders.of("rmq_a")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("nowhere", path)])
def test_what_is_no_file_is_no_key_and_holds_nobody_up(senders, make, monkeypatch):
    make(senders.path / "rmq_")
    settled(monkeypatch)
    with pytest.raises((KeyFileError, KeyUnsettledError), match="rmq_"):
        senders.of("rmq_a")


def test_a_link_to_nothing_is_a_broken_key_unless_keys_are_just_being_swapped(senders, monkeypatch):
    (senders.path / "rmq_").symlink_to("..data/rmq_")
    with pytest.raises(KeyUnsettledError, match="rmq_ cannot be used: it is a link to nothing"):
        senders.of("rmq_a")
    settled(monkeypatch)
    with pytest.raises(KeyFileError, match="rmq_ cannot be used: it is a link to nothing"):
        senders.of("rmq_a")


def test_what_is_to_be_done_about_a_mode_is_said(senders, line, monkeypatch):
    path = put(senders, "rmq_", line)
    path.chmod(0o664)
    settled(monkeypatch)
    with pytest.raises(KeyFileError) as caught:
        senders.of("rmq_a")
    assert caught.value.hint == f"chmod go-w {path}"


def test_a_key_that_others_may_change_is_none(senders, line, monkeypatch):
    put(senders, "rmq_", line).chmod(0o664)
    settled(monkeypatch)
    with pytest.raises(KeyFileError, match=r"can be changed by others \(mode 0664\)"):
        senders.of("rmq_a")


def test_a_directory_that_others_may_change_has_no_keys(senders, line):
    put(senders, "rmq_", line)
    senders.path.chmod(0o777)
    with pytest.raises(KeyFileError, match=r"senders can be changed by others \(mode 0777\)"):
        senders.of("rmq_a")
    with pytest.raises(KeyFileError, match="can be changed by others"):
        senders.check()


def test_a_file_without_end_is_not_read_to_its_end(senders, line, monkeypatch):
    put(senders, "rmq_", line + "#" * LARGEST)
    settled(monkeypatch)
    with pytest.raises(KeyFileError, match="more than"):
        senders.of("rmq_a")


def test_a_directory_that_is_not_there_now_makes_messages_wait(senders):
    senders.path.rmdir()
    with pytest.raises(KeyUnsettledError, match="cannot be read"):
        senders.of("rmq_a")
    with pytest.raises(KeyFileError, match="cannot be read"):
        senders.check()


def test_what_is_wrong_with_keys_is_told_at_the_start(senders, line, caplog):
    put(senders, "rmq_a", line)
    put(senders, "rmq_b", "nothing")
    senders.check()
    assert "rmq_b cannot be used" in caplog.text
    assert "rmq_a" not in caplog.text


@pytest.mark.parametrize("name", ["andrei.pub", "rmq_andrei_.pub", "rmq_andrei_*"])
def test_a_key_under_a_name_that_no_queue_begins_with_is_told_of(senders, line, caplog, name):
    put(senders, "rmq_andrei_", line)
    put(senders, "rm", line)
    senders.check()
    assert caplog.text == ""
    put(senders, name, line)
    senders.check()
    assert f"{name} hardly belongs to any queue" in caplog.text


# -- the runner's own key ---------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path, keys):
    """As Kubernetes mounts it."""
    for name, content in (
        ("encryption/ssh-privatekey", keys / "runner-pkcs1-encrypted"),
        ("passphrase/ssh-passphrase", None),
    ):
        path = tmp_path / "own" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content.read_bytes() if content else PASSPHRASE.encode() + b"\n")
        path.chmod(0o600)
    return tmp_path / "own"


def test_the_runners_key_is_opened_with_its_passphrase(own):
    assert OpeningKeyFile(own).key().public.bits == 4096


def test_the_runners_key_may_change_while_it_runs(own, keys):
    file = OpeningKeyFile(own)
    before = file.key().public.fingerprint
    assert file.key() is file.key()
    shutil.copy(keys / "other-runner", own / "encryption/ssh-privatekey")
    assert file.key().public.fingerprint != before


def test_a_runners_key_that_was_changed_for_the_worse_is_told_and_not_taken(own, caplog):
    file = OpeningKeyFile(own)
    key = file.key()
    (own / "encryption/ssh-privatekey").write_text("half a k")
    with caplog.at_level(logging.WARNING):
        assert [file.key() is key, file.key() is key] == [True, True]
    assert caplog.text.count("the key that was there before is used on") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda own: (own / "encryption/ssh-privatekey").unlink(), "cannot be read: No such file"),
        (lambda own: (own / "encryption/ssh-privatekey").chmod(0o644), r"can be used by others \(mode 0644\)"),
        (lambda own: (own / "encryption/ssh-privatekey").chmod(0o660), r"can be used by others \(mode 0660\)"),
        (
            lambda own: (own / "passphrase/ssh-passphrase").chmod(0o604),
            r"The passphrase file .* can be used by others \(mode 0604\)",
        ),
        (lambda own: (own / "passphrase/ssh-passphrase").write_text("wrong"), "or the passphrase is another"),
        (lambda own: (own / "passphrase/ssh-passphrase").unlink(), "there is no passphrase for it"),
    ],
)
def test_what_is_wrong_with_the_runners_key_is_told(own, change, words):
    change(own)
    with pytest.raises(KeyFileError, match=words):
        OpeningKeyFile(own).key()


@contextmanager
def as_ordinary_user(place):
    """As somebody to whom modes mean something, and whose files these are."""
    if os.geteuid() != 0:
        yield
        return
    for path in (place, *place.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_passphrase_that_cannot_be_looked_for_stops_no_runner(own, caplog):
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(own, Path(place) / "own")
        file = OpeningKeyFile(Path(place) / "own")
        key = file.key()
        (Path(place) / "own/passphrase").chmod(0)
        with as_ordinary_user(Path(place)):
            assert file.key() is key
            assert "ssh-passphrase cannot be read: Permission denied" in caplog.text
            with pytest.raises(KeyFileError, match="ssh-passphrase cannot be read: Permission denied"):
                OpeningKeyFile(Path(place) / "own").key()
        (Path(place) / "own/passphrase").chmod(0o700)


def test_a_group_may_read_a_private_key_and_nobody_else(keys):
    (keys / "runner").chmod(0o640)
    assert private_content(keys / "runner")


def test_a_public_half_in_the_place_of_a_private_key_is_not_taken_for_an_open_one(keys):
    with pytest.raises(KeyFileError, match="holds no private key") as refusal:
        private_content(keys / "sender.pub")
    assert "public half" in refusal.value.hint


def test_what_is_to_be_done_about_a_senders_key_is_told(senders, line, monkeypatch):
    put(senders, "rmq_", line).chmod(0o666)
    settled(monkeypatch)
    with pytest.raises(KeyFileError) as refusal:
        senders.of("rmq_a")
    assert refusal.value.hint == f"chmod go-w {senders.path / 'rmq_'}"


def test_a_public_key_may_be_read_by_everybody_and_changed_by_nobody(keys):
    assert public_content(keys / "runner.pub")
    (keys / "runner.pub").chmod(0o646)
    with pytest.raises(KeyFileError, match="can be changed by others"):
        public_content(keys / "runner.pub")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
def test_a_key_that_belongs_to_another_user_is_none(keys):
    os.chown(keys / "runner", 12345, -1)
    with pytest.raises(KeyFileError, match="belongs to another user"):
        private_content(keys / "runner")
