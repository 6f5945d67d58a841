"""Experiment records: what is kept, merged, listed, and what never gets in."""

import asyncio
import json
import os

import pytest

from studio_runner.client.lookup import find
from studio_runner.client.view import Details, status, summary
from studio_runner.errors import NotFoundError, StorageUnavailableError
from studio_runner.reports.documents import DirectoryDocuments, StoreDocuments
from studio_runner.reports.records import Record, Records, without_credentials
from studio_runner.storage.base import Precondition
from studio_runner.storage.files import FileStore


@pytest.fixture(params=["directory", "store"])
def records(request, tmp_path):
    if request.param == "directory":
        return Records(DirectoryDocuments(tmp_path / "db"))
    return Records(StoreDocuments(FileStore(tmp_path / "db"), Precondition))


def experiment(key, **fields):
    return {"key": key, "status": "waiting", "time_added": 1000.0, "owner": "guest", "project": None, **fields}


async def test_a_record_is_read_as_it_was_written(records):
    await records.create(experiment("k1", info={"a": [1, None]}))
    record = await records.read("k1")
    assert record.document == experiment("k1", info={"a": [1, None]})
    assert record.status == "waiting"


async def test_what_does_not_exist_reads_as_none(records):
    assert await records.read("absent") is None
    assert list(await records.list()) == []


async def test_changes_merge_into_what_is_there(records):
    await records.create(experiment("k1", studio_runner={"queue": "local_a", "config": {"x": 1}}))
    await records.update("k1", {"status": "running", "studio_runner": {"attempt": 1}})
    await records.update("k1", {"time_finished": 5.0, "studio_runner": {"attempt": None, "config": {"y": 2}}})
    document = (await records.read("k1")).document
    assert document["status"] == "running"
    assert document["time_finished"] == 5.0
    assert document["studio_runner"] == {"queue": "local_a", "config": {"x": 1, "y": 2}, "attempt": None}


async def test_a_record_that_is_missing_starts_from_the_experiment(records):
    await records.update("k1", {"status": "running"}, otherwise=experiment("k1", filename="a.py"))
    await records.update("k1", {"time_started": 2.0}, otherwise=experiment("k1", filename="b.py"))
    document = (await records.read("k1")).document
    assert (document["filename"], document["status"], document["time_started"]) == ("a.py", "running", 2.0)


async def test_changes_at_the_same_moment_are_all_kept(tmp_path):
    one, other = Records.in_directory(tmp_path), Records.in_directory(tmp_path)
    await one.create(experiment("k1"))
    await asyncio.gather(*(place.update("k1", {f"f{i}": i}) for i, place in enumerate([one, other] * 20)))
    document = (await one.read("k1")).document
    assert all(document[f"f{i}"] == i for i in range(40))


async def test_the_newest_is_listed_first(records):
    for key, added in (("a", 10.0), ("b", 30.0), ("c", 20.0)):
        await records.create(experiment(key, time_added=added))
    assert [record.key for record in await records.list()] == ["b", "c", "a"]


async def test_existing_clients_find_their_indexes(tmp_path):
    await Records.in_directory(tmp_path).create(experiment("k1", project="p", owner="ann"))
    assert json.loads((tmp_path / "users/ann/experiments/k1").read_text()) == 1000.0
    assert json.loads((tmp_path / "projects/p/k1/owner").read_text()) == "ann"
    assert json.loads((tmp_path / "experiments/k1").read_text())["key"] == "k1"


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", ".hidden", "x" * 400, "\0", "%2E"])
async def test_a_name_from_outside_never_leads_out_of_the_directory(name, tmp_path):
    records = Records.in_directory(tmp_path / "db")
    await records.create(experiment(name, owner=name, project=name))
    assert (await records.read(name)).key == name
    assert [path.name for path in tmp_path.iterdir()] == ["db"]
    assert [record.key for record in await records.list()] == [name]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
async def test_a_damaged_record_is_passed_over_and_begun_again(content, tmp_path):
    records = Records.in_directory(tmp_path)
    await records.create(experiment("good"))
    (tmp_path / "experiments" / "bad").write_bytes(content)
    assert await records.read("bad") is None
    assert [record.key for record in await records.list()] == ["good"]
    await records.update("bad", {"status": "running"}, otherwise=experiment("bad"))
    assert (await records.read("bad")).status == "running"


async def test_no_credential_gets_into_a_record(tmp_path):
    secret = "wJalrXUtnFEMI"
    await Records.in_directory(tmp_path).create(
        experiment(
            "k1",
            artifacts={
                "a": {"qualified": "s3://h/b/k", "credentials": {"aws": {"secret_access_key": secret}}},
                "b": {"url": f"https://user:{secret}@host/x", "mutable": False},
            },
            pythonenv=[f"-e git+https://{secret}@host/repo@main#egg=x", "six==1.0"],
        )
    )
    stored = (tmp_path / "experiments/k1").read_text()
    assert secret not in stored
    document = json.loads(stored)
    assert document["artifacts"]["a"]["qualified"] == "s3://h/b/k"
    assert document["pythonenv"][1] == "six==1.0"


def test_a_harmless_document_is_kept_as_it_is():
    document = {"info": {"mail": "ann@example.org"}, "args": ["a@b", 1, None, True], "tokenizer": "bpe"}
    assert without_credentials(document) == document


@pytest.mark.parametrize("text", ["1700000001_bbb", "1700000001", "last"])
async def test_an_experiment_is_found_by_its_key_its_beginning_or_as_the_last(text, records):
    await records.create(experiment("1700000000_aaa", time_added=1.0))
    await records.create(experiment("1700000001_bbb", time_added=2.0))
    assert (await find(records, text)).key == "1700000001_bbb"


async def test_an_unknown_experiment_is_refused_with_what_comes_near(records):
    await records.create(experiment("1700000000_aaa"))
    await records.create(experiment("1700000001_bbb"))
    with pytest.raises(NotFoundError, match="no experiment '1700000009_bbb'") as refusal:
        await find(records, "1700000009_bbb")
    assert "1700000001_bbb" in refusal.value.hint
    with pytest.raises(NotFoundError, match="2 experiments begin with '17'") as refusal:
        await find(records, "17")
    assert "1700000000_aaa" in refusal.value.hint


async def test_there_is_no_last_of_nothing(records):
    with pytest.raises(NotFoundError, match="no experiments yet"):
        await find(records, "last")


def test_an_experiment_in_a_line():
    document = experiment("k", filename="t.py", args=["1", "'a b'"], time_started=1010.0, status="running")
    line = summary(Record("k", {**document, "studio_runner": {"queue": "q", "stage": "run"}}), now=1100.0)
    assert (line.status, line.stage, line.queue, line.age, line.duration) == ("running", "run", "q", 100.0, 90.0)
    assert line.script == "t.py 1 'a b'"


def test_a_stop_that_is_asked_for_is_stopping_until_the_end():
    assert status(Record("k", experiment("k", status="stopped"))) == "stopping"
    assert status(Record("k", experiment("k", status="stopped", time_finished=1.0))) == "stopped"


def test_what_a_person_sees_of_a_failure():
    own = {"reason": "script_failed", "sentence": "It failed.", "signal": 9, "peak_memory": 5_000_000, "host": "h"}
    document = experiment("k", status="finished", time_started=1010.0, time_finished=1100.0, studio_runner=own)
    fields = Details(Record("k", document), ()).fields(now=2000.0)
    assert fields["reason"] == "script_failed"
    assert fields["what happened"] == "It failed."
    assert fields["exit"] == "signal 9"
    assert fields["duration"] == "1m30s"
    assert fields["peak memory"] == "5 MB"
    assert "project" not in fields


@pytest.mark.parametrize("name", ["info", "owner", "project", "author"])
async def test_half_a_surrogate_pair_in_a_message_keeps_no_record_from_being_written(records, name):
    await records.create(experiment("k1", **{name: "x\ud800"}))
    await records.update("k1", {"status": "running"})
    document = (await records.read("k1")).document
    assert (document["status"], document[name]) == ("running", "x\ud800")


async def test_a_record_nested_too_deep_is_passed_over(tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "k1").write_bytes(b'{"x":' * 5000 + b"1" + b"}" * 5000)
    (tmp_path / "experiments" / "k2").write_bytes(b'{"x":' * 300 + b"1" + b"}" * 300)
    records = Records(DirectoryDocuments(tmp_path))
    assert await records.read("k1") is None
    assert await records.read("k2") is None
    assert list(await records.list()) == []


async def test_a_key_of_many_bytes_is_no_trouble(records):
    assert await records.read("é" * 200) is None
    await records.create(experiment("é" * 127))
    await records.create(experiment("é" * 126 + "e"))
    assert (await records.read("é" * 127)).document["key"] == "é" * 127


async def test_a_directory_in_the_place_of_a_record_is_none_and_not_left_open(tmp_path):
    (tmp_path / "experiments" / "k1").mkdir(parents=True)
    records = Records(DirectoryDocuments(tmp_path))
    assert await records.read("k1") is None
    before = os.listdir("/proc/self/fd")
    assert await records.read("k1") is None
    assert os.listdir("/proc/self/fd") == before


@pytest.fixture
def shared(tmp_path):
    """A database that others may write into, beside what they may not."""
    (tmp_path / "db" / "experiments").mkdir(parents=True)
    (tmp_path / "private").write_text('{"key": "private"}')
    return tmp_path / "db"


async def test_a_link_in_the_place_of_a_record_shows_nothing_and_is_replaced(shared, tmp_path):
    link = shared / "experiments" / "k1"
    link.symlink_to(tmp_path / "private")
    records = Records(DirectoryDocuments(shared))
    assert await records.read("k1") is None
    assert await records.list() == []
    await records.update("k1", {"status": "running"})
    assert json.loads(link.read_text()) == {"key": "k1", "status": "running"}
    assert not link.is_symlink()


@pytest.mark.parametrize("trap", [lambda path, target: path.symlink_to(target), lambda path, _: os.mkfifo(path)])
async def test_nothing_is_written_through_what_lies_where_a_record_is_made(shared, tmp_path, trap):
    trap(shared / "experiments" / ".new", tmp_path / "private")
    await Records(DirectoryDocuments(shared)).create(experiment("k1"))
    assert json.loads((shared / "experiments" / "k1").read_text())["key"] == "k1"
    assert (tmp_path / "private").read_text() == '{"key": "private"}'


async def test_a_linked_directory_leads_nobody_out_of_the_database(shared, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "k1").write_text('{"key": "k1"}')
    (shared / "experiments").rmdir()
    (shared / "experiments").symlink_to(outside)
    records = Records(DirectoryDocuments(shared))
    assert await records.read("k1") is None
    with pytest.raises(StorageUnavailableError, match="a link leads out of the database"):
        await records.create(experiment("k2"))
    assert os.listdir(outside) == ["k1"]


async def test_a_linked_lock_makes_no_file_elsewhere(shared, tmp_path):
    (shared / ".lock").symlink_to(tmp_path / "made")
    with pytest.raises(StorageUnavailableError):
        await Records(DirectoryDocuments(shared)).create(experiment("k1"))
    assert not (tmp_path / "made").exists()


async def test_a_database_may_itself_be_linked(shared, tmp_path):
    (tmp_path / "linked").symlink_to(shared)
    records = Records(DirectoryDocuments(tmp_path / "linked"))
    await records.create(experiment("k1"))
    assert (await records.read("k1")).document["key"] == "k1"
    assert [record.key for record in await records.list()] == ["k1"]
