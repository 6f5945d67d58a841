import os

import pytest

from studio_runner.queues.backlog import AT_A_TIME, Backlog


@pytest.fixture
def odd():
    return []


@pytest.fixture
def backlog(tmp_path, odd):
    return Backlog(tmp_path, lambda path: odd.append(path.name))


def put(tmp_path, name, modified):
    (tmp_path / name).write_text("{}")
    os.utime(tmp_path / name, ns=(modified, modified))


def read(backlog):
    backlog.merge(backlog.listing())


def pop_all(backlog):
    found = []
    while (entry := backlog.pop()) is not None:
        found.append(entry)
    return found


def names(entries):
    return [entry.name for entry in entries]


def test_oldest_first_and_by_name_among_equals(tmp_path, backlog):
    for name, modified in [("d", 5), ("a", 7), ("c", 5), ("b", 1)]:
        put(tmp_path, name, modified)
    read(backlog)
    assert names(pop_all(backlog)) == ["b", "c", "d", "a"]


def test_an_arrival_finds_its_place(tmp_path, backlog):
    put(tmp_path, "a", 10)
    read(backlog)
    put(tmp_path, "b", 5)
    backlog.add("b")
    assert names(pop_all(backlog)) == ["b", "a"]


def test_a_name_is_offered_once_however_often_it_is_seen(tmp_path, backlog):
    put(tmp_path, "a", 1)
    backlog.add("a")
    backlog.add("a")
    read(backlog)
    assert names(pop_all(backlog)) == ["a"]


def test_a_name_that_was_taken_may_come_again(tmp_path, backlog):
    put(tmp_path, "a", 1)
    read(backlog)
    [entry] = pop_all(backlog)
    backlog.forget(entry)
    read(backlog)
    assert names(pop_all(backlog)) == ["a"]


def test_what_is_no_message(tmp_path, backlog, odd):
    (tmp_path / "directory").mkdir()
    for name in ("lock.lock", ".hidden"):
        put(tmp_path, name, 1)
    (tmp_path / "link").symlink_to(tmp_path / "lock.lock")
    os.mkfifo(tmp_path / "pipe")
    read(backlog)
    for name in os.listdir(tmp_path):
        backlog.add(name)
    assert pop_all(backlog) == []
    assert set(odd) == {"link", "pipe"}


def test_arrivals_that_are_gone_again_do_no_harm(backlog):
    backlog.add("never-there")
    assert backlog.pop() is None


def refuse_all(backlog):
    entries = pop_all(backlog)
    for entry in entries:
        backlog.refuse(entry)
    return names(entries)


def test_after_a_release_the_oldest_refused_are_offered_again(tmp_path, backlog):
    for number in range(200):
        put(tmp_path, f"{number:03}", number + 1)
    read(backlog)
    everything = refuse_all(backlog)
    assert backlog.pop() is None
    backlog.offer_oldest()
    assert refuse_all(backlog) == everything[:AT_A_TIME]
    backlog.offer_oldest()
    assert refuse_all(backlog) == everything[:AT_A_TIME]


def test_regular_looks_go_round_all_refused(tmp_path, backlog):
    for number in range(200):
        put(tmp_path, f"{number:03}", number + 1)
    read(backlog)
    everything = refuse_all(backlog)
    offered = []
    for _ in range(4):
        backlog.offer_others()
        offered += refuse_all(backlog)
    assert offered == everything
    backlog.offer_others()
    assert refuse_all(backlog) == everything[:AT_A_TIME]


def test_a_refused_message_that_vanished_is_forgotten(tmp_path, backlog):
    put(tmp_path, "a", 1)
    read(backlog)
    refuse_all(backlog)
    assert backlog.has_refused
    (tmp_path / "a").unlink()
    read(backlog)
    assert not backlog.has_refused


def test_an_unchanged_directory_is_read_no_more(tmp_path, backlog):
    assert backlog.is_stale()
    assert backlog.is_stale(), "a change may have followed within the resolution of the time of modification"
    assert not backlog.is_stale()
    assert not backlog.is_stale()
    put(tmp_path, "a", 1)
    assert backlog.is_stale()


def test_a_directory_made_anew_is_read_again(tmp_path):
    directory = tmp_path / "queue"
    directory.mkdir()
    backlog = Backlog(directory, lambda _: None)
    while backlog.is_stale():
        pass
    directory.rename(tmp_path / "old")
    with pytest.raises(FileNotFoundError):
        backlog.is_stale()
    backlog.vanish()
    directory.mkdir()
    assert backlog.is_stale()


def test_a_directory_that_vanished_offers_nothing(tmp_path, backlog):
    put(tmp_path, "a", 1)
    put(tmp_path, "b", 2)
    read(backlog)
    entry = backlog.pop()
    backlog.refuse(entry)
    backlog.vanish()
    assert backlog.pop() is None
    assert not backlog.has_refused


def test_the_one_that_room_is_held_for_is_offered_however_far_back_it_is(tmp_path, backlog):
    for number in range(3 * AT_A_TIME):
        put(tmp_path, f"m{number:03}", number + 1)
    read(backlog)
    entries = pop_all(backlog)
    for entry in entries[:-1]:
        backlog.refuse(entry)
    backlog.refuse_for_now(entries[-1])
    backlog.offer_oldest()
    assert names(pop_all(backlog)) == [*names(entries[:AT_A_TIME]), entries[-1].name]
