import json
import logging
import os
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio_runner.queues import reading
from studio_runner.queues.backlog import Entry
from studio_runner.queues.complaints import Complaints
from studio_runner.queues.reading import Content, Ripening, SoftLock, Version, is_complete, read_message

NEVER = float("-inf")
LATER = float("inf")
"""A time at which a message was seen: after anything else."""


def test_a_message_is_read_with_its_version(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"hello")
    content = read_message(path)
    assert content == (b"hello", Version.of(path.stat()))


def test_links_are_not_followed(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "a").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError):
        read_message(tmp_path / "a")


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "a")
    with pytest.raises(OSError, match="not a regular file"):
        read_message(tmp_path / "a")


def test_a_message_too_large_is_not_read(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        file.truncate(reading.LARGEST + 1)
    assert read_message(tmp_path / "a").body is None


def test_a_message_that_grows_meanwhile_is_read_as_long_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"hello")
    look = os.fstat

    def look_and_write(descriptor):
        status = look(descriptor)
        with path.open("ab") as file:
            file.write(b" and much more")
        return status

    monkeypatch.setattr(os, "fstat", look_and_write)
    assert read_message(path).body == b"hello"


@settings(max_examples=25)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_a_beginning_of_an_object_is_never_complete(value):
    text = json.dumps({"experiment": value}).encode()
    assert is_complete(text)
    assert not any(is_complete(text[:length]) for length in range(len(text)))


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 100_000, b"{", b'{"a": 1} x'])
def test_what_is_not_complete(body):
    assert not is_complete(body)


def version(number):
    return Version(1, number, 10)


def entry(seen=LATER, modified=1):
    return Entry(modified, "a", seen)


def test_a_whole_message_is_handed_on_at_once():
    assert Ripening().wait(entry(), Content(b"{}", version(1))) == 0


def test_an_unfinished_message_waits(monkeypatch):
    ripening = Ripening()
    assert 0 < ripening.wait(entry(), Content(b"{", version(1))) <= reading.SETTLES
    assert ripening.wait(entry(), Content(b"{}", version(2))) == 0


def test_a_message_that_stays_broken_is_handed_on(monkeypatch):
    monkeypatch.setattr(reading, "SETTLES", 0.01)
    ripening = Ripening()
    wait = ripening.wait(entry(), Content(b"{", version(1)))
    assert wait > 0
    while wait:
        wait = ripening.wait(entry(), Content(b"{", version(1)))


def test_a_message_still_being_written_waits_from_the_last_write(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(reading.time, "monotonic", lambda: now[0])
    ripening = Ripening()
    for number in range(10):
        assert ripening.wait(entry(), Content(b"{", version(number))) == pytest.approx(reading.SETTLES)
        now[0] += 0.9 * reading.SETTLES


def test_a_message_known_for_long_and_unchanged_is_not_examined():
    assert Ripening().wait(entry(seen=NEVER, modified=1), Content(b"{", version(1))) == 0


def test_a_message_known_for_long_and_written_to_since_is_examined():
    assert Ripening().wait(entry(seen=NEVER, modified=1), Content(b"{", version(2))) > 0


@pytest.fixture
def lock(tmp_path):
    return SoftLock(tmp_path / "lock.lock", Complaints(logging.getLogger("test")))


def test_a_message_seen_while_the_lock_is_held_is_covered(lock):
    lock.path.touch()
    assert lock.covers(reading.time.monotonic())
    lock.path.unlink()
    assert not lock.covers(reading.time.monotonic())


def test_a_message_seen_before_the_lock_was_free_is_whole_for_good(lock):
    seen = reading.time.monotonic()
    assert not lock.covers(seen)
    lock.path.touch()
    assert not lock.covers(seen)
    assert lock.covers(LATER)


def test_a_lock_left_behind_is_ignored_and_said_once(lock, monkeypatch, caplog):
    lock.path.touch()
    now = [100.0]
    monkeypatch.setattr(reading.time, "monotonic", lambda: now[0])
    assert lock.covers(LATER)
    now[0] += reading.LOCK_EXPIRES - 1
    assert lock.covers(LATER)
    now[0] += 2
    assert not lock.covers(LATER)
    assert not lock.covers(LATER)
    assert caplog.text.count("left behind") == 1


def test_a_lock_that_changes_hands_is_held(lock, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(reading.time, "monotonic", lambda: now[0])
    for number in range(5):
        lock.path.write_text(str(number))
        os.utime(lock.path, ns=(number, number))
        assert lock.covers(LATER)
        now[0] += reading.LOCK_EXPIRES - 1


def test_messages_are_never_written_to(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x")
    path.chmod(0o400)
    read_message(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400


def test_what_is_no_file_is_refused_and_not_left_open(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    before = os.listdir("/proc/self/fd")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "link"):
        with pytest.raises(OSError):
            read_message(path)
    assert os.listdir("/proc/self/fd") == before
