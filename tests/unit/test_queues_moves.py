import json
import os

import pytest

from studio_runner.queues import keeping, moves
from studio_runner.queues.layout import MessageName, RootPlace

MESSAGE = MessageName("a", 2)


@pytest.fixture
def place(tmp_path):
    place = RootPlace(tmp_path).queue("local_a")
    place.messages.mkdir()
    place.claimed.mkdir(parents=True)
    return place


@pytest.fixture
def claim(place):
    path = place.claimed / "host.1~1~2~a"
    path.write_bytes(b"{}")
    os.utime(path, ns=(5, 5))
    return path


def test_a_message_put_back_keeps_its_age_and_count(place, claim):
    assert moves.put_back(place, claim, MESSAGE)
    returned = place.messages / "a~tried2"
    assert returned.stat().st_mtime_ns == 5
    assert not claim.exists()


def test_a_message_put_back_overwrites_nothing(place, claim):
    (place.messages / "a~tried2").write_bytes(b"another")
    assert moves.put_back(place, claim, MESSAGE)
    assert sorted(path.read_bytes() for path in place.messages.iterdir()) == [b"another", b"{}"]
    assert {MessageName.parse(path.name).attempts for path in place.messages.iterdir()} == {2}


@pytest.mark.parametrize("step", ["put_back", "postpone", "set_aside"])
def test_only_one_of_two_can_move_a_message(place, claim, step):
    arguments = {"put_back": (), "postpone": (5.0,), "set_aside": (moves.Parting("no", "me"),)}[step]
    claim.unlink()
    assert not getattr(moves, step)(place, claim, MESSAGE, *arguments)
    assert keeping.status(place) == keeping.QueueStatus("local_a", 0, 0, 0, 0)
    assert list(place.dead.glob("*")) == []


def test_a_message_of_a_deleted_queue_is_kept_with_the_dead_letters(place, claim):
    place.messages.rmdir()
    assert moves.put_back(place, claim, MESSAGE)
    [letter] = keeping.dead_letters(place)
    assert "was deleted" in letter.reason
    assert not place.messages.exists()


def test_the_reason_lies_beside_the_dead_letter(place, claim):
    moves.set_aside(place, claim, MESSAGE, moves.Parting("it is no good", "host.1"))
    assert (place.dead / "a~tried2").read_bytes() == b"{}"
    note = json.loads((place.dead / "a~tried2.reason.json").read_text())
    assert (note["reason"], note["attempts"], note["runner"]) == ("it is no good", 2, "host.1")


def test_a_message_called_like_a_reason_is_still_a_dead_letter(place, claim):
    moves.set_aside(place, claim, MessageName("x.reason.json", 0), moves.Parting("no", "me"))
    [letter] = keeping.dead_letters(place)
    assert (letter.body, letter.reason) == (b"{}", "no")


def test_a_reason_that_cannot_be_written_does_not_keep_a_message_alive(place, claim, caplog):
    place.incoming.write_text("in the way")
    assert moves.set_aside(place, claim, MESSAGE, moves.Parting("no", "me"))
    [letter] = keeping.dead_letters(place)
    assert letter.reason == "the reason was not kept"
    assert "no" in caplog.text


@pytest.mark.parametrize("note", [b"", b"[]", b"{}", b'{"reason": "x", "at": "yesterday"}', b"\xff"])
def test_damaged_reasons_do_not_hide_the_dead_letter(place, claim, note):
    moves.set_aside(place, claim, MESSAGE, moves.Parting("no", "me"))
    (place.dead / "a~tried2.reason.json").write_bytes(note)
    [letter] = keeping.dead_letters(place)
    assert (letter.body, letter.attempts) == (b"{}", 2)


def test_a_revived_dead_letter_leaves_nothing(place, claim):
    moves.set_aside(place, claim, MESSAGE, moves.Parting("no", "me"))
    assert keeping.revive(place, None) == 1
    assert [path.name for path in place.messages.iterdir()] == ["a"]
    assert list(place.dead.iterdir()) == []


def test_a_failed_write_leaves_nothing(place):
    place.incoming.mkdir()
    (place.messages / "taken").mkdir()
    with pytest.raises(OSError):
        moves.write_whole(place.incoming, place.messages / "taken", b"{}")
    assert list(place.incoming.iterdir()) == []


@pytest.mark.parametrize(
    "note", [b"[" * 5000, b'{"reason":"r","at":1e300}', b'{"reason":"r","at":1' + b"0" * 400 + b"}", b"[]", b"7"]
)
def test_a_reason_that_cannot_be_read_was_not_kept(place, claim, note):
    moves.set_aside(place, claim, MessageName("a", 1), moves.Parting("no", "host.1"))
    (place.dead / "a~tried1.reason.json").write_bytes(note)
    [letter] = keeping.dead_letters(place)
    assert letter.reason == "the reason was not kept"


def test_a_pipe_among_the_dead_letters_keeps_nobody_waiting(place, claim):
    moves.set_aside(place, claim, MessageName("a", 1), moves.Parting("no", "host.1"))
    (place.dead / "a~tried1.reason.json").unlink()
    os.mkfifo(place.dead / "a~tried1.reason.json")
    assert keeping.dead_letters(place)[0].reason == "the reason was not kept"
    os.mkfifo(place.dead / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        keeping.dead_letters(place)
