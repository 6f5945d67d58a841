"""Which database a record goes to, and that no experiment waits for one."""

import asyncio
import json
import logging
import os
import stat
from dataclasses import replace

import pytest

from studio_runner.config.reach import Reach
from studio_runner.errors import Reason, StorageUnavailableError, UnauthorisedError
from studio_runner.messages.request import Config
from studio_runner.reports import sender, writer
from studio_runner.reports.base import Checkpointed, Ended, StageEntered, Started, Subject
from studio_runner.reports.databases import Databases
from studio_runner.reports.documents import DirectoryDocuments, StoreDocuments
from studio_runner.reports.records import Records
from studio_runner.reports.sender import SenderRecorder
from studio_runner.storage.base import Precondition
from studio_runner.storage.files import FileStore


def subject(config=None, key="k", **experiment):
    return Subject(
        key=key,
        experiment={"key": key, "time_added": 1000.0, **experiment},
        queue="rmq_q",
        number=1,
        host="h",
        directory=None,
        runner="h-1",
        config=Config.model_validate(config) if config else None,
    )


def local(endpoint, bucket="meta"):
    return {"database": {"type": "local", "endpoint": str(endpoint), "bucket": bucket}}


S3 = {"database": {"type": "s3", "endpoint": "http://u:hunter2@store:9000", "bucket": "meta"}}


def ended(about, at=9.0, reason=Reason.COMPLETED):
    return Ended(about, at, reason, "It ended.", 0, None, True, 1, 1.0, 1.0)


class Flaky:
    """Documents in memory that can be taken away, and count."""

    def __init__(self):
        self.kept = {}
        self.writes = 0
        self.error = None
        self.open = asyncio.Event()
        self.open.set()

    async def read(self, key):
        return self.kept.get(key)

    async def version(self, key):
        if self.error:
            raise self.error
        return None if key not in self.kept else str(hash(self.kept[key]))

    async def change(self, key, edit):
        await self.open.wait()
        if self.error:
            raise self.error
        changed = edit(self.kept.get(key))
        if changed is not None:
            self.writes += 1
            self.kept[key] = changed

    async def all(self, prefix):
        return []

    def record(self, key="k"):
        return json.loads(self.kept[f"experiments/{key}"])

    def set(self, key="k", **fields):
        before = self.record(key) if f"experiments/{key}" in self.kept else {"key": key}
        self.kept[f"experiments/{key}"] = json.dumps({**before, **fields}).encode()


@pytest.fixture
def place():
    return Flaky()


@pytest.fixture
def databases(tmp_path, place):
    return Databases(tmp_path / "own", lambda _section, _variables: place)


def test_a_message_without_a_database_has_this_runner_s_only(databases):
    assert databases.of(subject()) is None
    assert databases.of(subject({"env": {}})) is None


async def test_a_local_database_is_used_where_its_directory_exists(databases, tmp_path):
    (tmp_path / "there").mkdir()
    database = databases.of(subject(local(tmp_path / "there")))
    await database.records.update("k", {"status": "running"})
    assert json.loads((tmp_path / "there/meta/experiments/k").read_text())["status"] == "running"


@pytest.mark.parametrize("endpoint", ["absent", "file"])
def test_a_local_database_of_another_machine_is_left_alone(endpoint, databases, tmp_path):
    (tmp_path / "file").write_text("")
    assert databases.of(subject(local(tmp_path / endpoint))) is None
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("bucket", ["../x", "/etc", "a/../../x"])
def test_a_local_database_stays_in_its_directory(bucket, databases, tmp_path):
    assert databases.of(subject(local(tmp_path, bucket))) is None


def test_the_runner_s_own_records_are_not_written_twice(databases, tmp_path):
    (tmp_path / "own").mkdir()
    assert databases.of(subject(local(tmp_path, "own"))) is None


def test_a_database_is_opened_once_for_the_same_credentials(tmp_path):
    opened = []

    def open_documents(section, variables):
        opened.append((section.bucket, variables.get("AWS_ACCESS_KEY_ID")))
        return Flaky()

    databases = Databases(tmp_path, open_documents)
    for user in ("ann", "ann", "bob"):
        databases.of(subject({**S3, "env": {"AWS_ACCESS_KEY_ID": user, "OTHER": str(len(opened))}}))
    assert opened == [("meta", "ann"), ("meta", "bob")]


def test_a_database_that_cannot_be_opened_is_told_of_once_and_without_its_secret(tmp_path, caplog):
    def refuse(_section, _variables):
        raise UnauthorisedError("no key for http://u:hunter2@store:9000")

    databases = Databases(tmp_path, refuse)
    assert [databases.of(subject(S3)) for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 1
    assert "store:9000/meta" in caplog.text
    assert "hunter2" not in caplog.text


async def test_a_short_experiment_is_one_write(databases, place):
    async with SenderRecorder(databases) as reporter:
        about = subject(S3)
        for event in (Started(about, 1.0), StageEntered(about, 1.1, "run"), ended(about)):
            await reporter.report(event)
    assert place.writes == 1
    record = place.record()
    assert (record["status"], record["time_started"], record["time_finished"]) == ("finished", 1.0, 9.0)


async def test_nobody_waits_long_for_a_database_that_hangs(databases, place, monkeypatch):
    monkeypatch.setattr(sender, "LAST_WORD", 0.1)
    place.open.clear()
    async with SenderRecorder(databases) as reporter:
        about = subject(S3)
        async with asyncio.timeout(20):
            for event in (Started(about, 1.0), Checkpointed(about, 2.0), ended(about)):
                await reporter.report(event)
        place.open.set()
    assert place.record()["status"] == "finished"


async def test_the_last_word_is_there_before_the_message_is_settled(databases, place):
    place.open.clear()
    about = subject(S3)
    async with SenderRecorder(databases) as reporter:
        await reporter.report(Started(about, 1.0))
        last = asyncio.create_task(reporter.report(ended(about)))
        await asyncio.wait([last], timeout=0.2)
        assert not last.done()
        place.open.set()
        await last
        assert place.record()["status"] == "finished"


async def test_an_end_that_is_not_final_waits_for_nobody(databases, place):
    place.open.clear()
    about = subject(S3)
    async with SenderRecorder(databases) as reporter:
        async with asyncio.timeout(20):
            await reporter.report(replace(ended(about), final=False))
        place.open.set()
    assert place.record()["status"] == "waiting"


async def test_the_last_word_does_not_wait_for_a_database_long_in_trouble(databases, place, monkeypatch):
    monkeypatch.setattr(writer, "GATHER", 0.0)
    monkeypatch.setattr(sender, "CLOSING", 0.05)
    place.error = StorageUnavailableError("http://store:9000 answers 503")
    async with SenderRecorder(databases) as reporter:
        about = subject(S3)
        await reporter.report(Started(about, 1.0))
        async with asyncio.timeout(20):
            while not databases.of(about).is_in_trouble(0.0):
                await asyncio.sleep(0.01)
        long_ago = databases.of(about).is_in_trouble
        monkeypatch.setattr(databases.of(about), "is_in_trouble", lambda _seconds: long_ago(0.0))
        async with asyncio.timeout(20):
            await reporter.report(ended(about))


async def test_a_write_that_failed_is_tried_again_with_what_came_meanwhile(databases, place, monkeypatch, caplog):
    monkeypatch.setattr(writer, "GATHER", 0.0)
    monkeypatch.setattr(sender, "FIRST_PAUSE", 0.01)
    caplog.set_level(logging.INFO)
    place.error = StorageUnavailableError("http://store:9000 answers 503")
    async with SenderRecorder(databases) as reporter:
        about = subject(S3)
        await reporter.report(Started(about, 1.0))
        await asyncio.sleep(0.1)
        await reporter.report(Checkpointed(about, 2.0))
        place.error = None
        async with asyncio.timeout(20):
            while not place.writes:
                await asyncio.sleep(0.01)
        assert place.record()["time_last_checkpoint"] == 2.0
        await reporter.report(ended(about))
    assert (place.record()["status"], place.record()["time_started"]) == ("finished", 1.0)
    assert caplog.text.count("cannot be written") == 1
    assert caplog.text.count("can be written again") == 1
    assert "503" in caplog.text


async def test_the_runner_s_end_waits_only_so_long_for_a_database(databases, place, monkeypatch, caplog):
    monkeypatch.setattr(sender, "CLOSING", 0.05)
    monkeypatch.setattr(sender, "LAST_WORD", 0.05)
    place.open.clear()
    async with asyncio.timeout(20), SenderRecorder(databases) as reporter:
        for number in range(3):
            about = subject(S3, key=f"k{number}")
            await reporter.report(Started(about, 1.0))
            await reporter.report(ended(about))
    assert "3 experiment records in the s3 database" in caplog.text
    assert "hunter2" not in caplog.text


async def test_a_record_that_its_owner_deleted_stays_away(databases, place, monkeypatch):
    monkeypatch.setattr(writer, "GATHER", 0.0)
    async with SenderRecorder(databases) as reporter:
        about = subject(S3)
        await reporter.report(Started(about, 1.0))
        async with asyncio.timeout(20):
            while not place.writes:
                await asyncio.sleep(0.01)
        place.kept.clear()
        await reporter.report(ended(about))
    assert place.kept == {}


@pytest.mark.parametrize("from_completion_service", [True, False])
async def test_clients_that_always_make_the_record_have_deleted_one_that_is_missing(
    from_completion_service, databases, place
):
    async with SenderRecorder(databases) as reporter:
        about = subject(S3, from_compl_service=from_completion_service)
        await reporter.report(Started(about, 1.0))
        await reporter.report(ended(about))
    assert place.kept == {}


async def test_too_many_records_that_wait_give_up_the_oldest(databases, place, monkeypatch):
    monkeypatch.setattr(sender, "MOST_LINGERING", 2)
    monkeypatch.setattr(sender, "LAST_WORD", 0.05)
    place.open.clear()
    async with SenderRecorder(databases) as reporter:
        for number in range(4):
            about = subject(S3, key=f"k{number}")
            await reporter.report(Started(about, 1.0))
            await reporter.report(ended(about))
            await asyncio.sleep(0)
        place.open.set()
    assert sorted(place.kept) == ["experiments/k2", "experiments/k3"]


async def test_a_stop_is_seen_in_either_place(databases, place, tmp_path):
    requested = databases.stop_request(subject(S3))
    assert not await requested()
    place.set(status="running")
    assert not await requested()
    place.set(status="stopped")
    assert await requested()

    requested = databases.stop_request(subject(S3, key="other"))
    await databases.default.update("other", {"status": "running"})
    assert not await requested()
    await Records.in_directory(tmp_path / "own").update("other", {"status": "stopped"})
    assert await requested()


async def test_an_unchanged_record_is_not_read_again(databases, place, monkeypatch):
    place.set(status="running")
    requested = databases.stop_request(subject(S3))
    assert not await requested()

    async def never(_key):
        pytest.fail("it was read again")

    monkeypatch.setattr(place, "read", never)
    assert not await requested()


async def test_a_place_that_cannot_be_asked_does_not_hide_the_other(databases, place):
    place.error = StorageUnavailableError("it does not answer")
    requested = databases.stop_request(subject(S3))
    assert not await requested()
    await databases.default.update("k", {"status": "stopped"})
    assert await requested()


@pytest.fixture(params=["directory", "store"])
def documents(request, tmp_path):
    if request.param == "directory":
        return DirectoryDocuments(tmp_path / "db")
    return StoreDocuments(FileStore(tmp_path / "db"), Precondition)


async def test_the_version_tells_whether_a_document_changed(documents):
    assert await documents.version("a/k") is None
    await documents.change("a/k", lambda _: b"1")
    first = await documents.version("a/k")
    assert await documents.version("a/k") == first
    await documents.change("a/k", lambda _: b"22")
    assert await documents.version("a/k") not in (None, first)


async def test_nothing_is_written_where_nothing_changes(documents):
    await documents.change("a/k", lambda _: b"1")
    first = await documents.version("a/k")
    await documents.change("a/k", lambda _: None)
    await documents.change("a/k", lambda content: content)
    assert await documents.version("a/k") == first
    await documents.change("a/absent", lambda _: None)
    assert await documents.read("a/absent") is None


async def test_changes_at_the_same_moment_are_all_kept_in_either_place(documents):
    records = Records(documents)
    await asyncio.gather(*(records.update("k", {f"f{index}": index}) for index in range(8)))
    document = (await records.read("k")).document
    assert {f"f{index}" for index in range(8)} <= document.keys()


def test_a_local_database_is_where_messages_may_name_files(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "private").mkdir()
    databases = Databases(tmp_path / "own", reach=Reach((tmp_path / "shared",)))
    assert databases.of(subject(local(tmp_path / "shared"))) is not None
    assert databases.of(subject(local(tmp_path / "private"))) is None
    assert databases.of(subject(local(tmp_path / "shared", "../private"))) is None


@pytest.mark.parametrize("content", [b"[" * 2000 + b"]" * 2000, b'{"a": ' * 500 + b"1" + b"}" * 500])
async def test_a_record_without_bottom_is_none(tmp_path, content):
    records = Records.in_directory(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "k").write_bytes(content)
    assert await records.read("k") is None


async def test_a_pipe_in_the_place_of_a_record_keeps_nobody_waiting(tmp_path):
    (tmp_path / "experiments").mkdir()
    os.mkfifo(tmp_path / "experiments" / "k")
    assert await DirectoryDocuments(tmp_path).read("experiments/k") is None


async def test_a_store_that_sends_without_end_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("studio_runner.reports.documents.LARGEST", 1000)

    class Endless(FileStore):
        async def get(self, key):
            while True:
                yield bytes(100)

    store = Endless(tmp_path)
    store.write("k", [b"{}"])
    with pytest.raises(StorageUnavailableError, match="larger than"):
        await StoreDocuments(store, Precondition).read("k")


@pytest.mark.parametrize("place", [0o2770, 0o700])
async def test_records_in_a_directory_are_as_open_as_that(tmp_path, place):
    top = tmp_path / "store"
    top.mkdir()
    top.chmod(place)
    before = os.umask(0o077)
    try:
        await DirectoryDocuments(top / "db").change("experiments/k", lambda _: b"{}")
    finally:
        os.umask(before)

    for path in (top / "db").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (place if path.is_dir() else place & 0o666), path
    assert stat.S_IMODE((top / "db").stat().st_mode) == place
