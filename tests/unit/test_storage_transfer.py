"""Artifacts to an experiment and back, over a store here and over one that can only stream."""

import asyncio
import hashlib
import os
import random
import shutil
import tarfile
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from studio_runner.errors import (
    ArtifactInvalidError,
    ArtifactMissingError,
    DiskExceededError,
    LeaseLostError,
    PreconditionFailedError,
    StorageUnavailableError,
    UnauthorisedError,
)
from studio_runner.messages.artifact import Artifact, Location
from studio_runner.storage import fetch as fetching_module
from studio_runner.storage import upload as upload_module
from studio_runner.storage.archive import pack, pack_file
from studio_runner.storage.base import CHUNK, ObjectInfo, Precondition, Store
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.files import FileStore
from studio_runner.storage.ranges import PART, WINDOW
from studio_runner.storage.registry import open_store
from studio_runner.storage.transfer import Fetch, Upload, fetch, fetch_all, upload_all

KEY = "experiments/k/modeldir.tar"


class Streaming:
    """A store that offers nothing but the seam, as one across the network."""

    def __init__(self, files: FileStore) -> None:
        self._files = files

    async def head(self, key: str) -> ObjectInfo:
        return await self._files.head(key)

    def get(self, key: str) -> AsyncIterator[bytes]:
        return self._files.get(key)

    async def put(self, key: str, stream: AsyncIterator[bytes], *, when: Precondition | None = None) -> ObjectInfo:
        return await self._files.put(key, stream, when=when)

    def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        return self._files.list(prefix)

    async def delete(self, key: str) -> None:
        await self._files.delete(key)


class Elsewhere(Streaming):
    """A store that has, besides, what one across the network has; it counts what it is asked."""

    def __init__(self, files: FileStore) -> None:
        super().__init__(files)
        self.asked: Counter[str] = Counter()
        self.most = self._reading = 0

    @property
    def there(self) -> Self:
        return self

    async def head(self, key: str) -> ObjectInfo:
        self.asked["head"] += 1
        return await super().head(key)

    @asynccontextmanager
    async def open(self, key: str) -> AsyncIterator[tuple[ObjectInfo, AsyncIterator[bytes]]]:
        self.asked["open"] += 1
        stream = super().get(key)
        info = await super().head(key)
        async with aclosing(stream):
            yield info, stream

    async def read_range(self, key: str, start: int, end: int, etag: str) -> bytes:
        self.asked["range"] += 1
        self._reading += 1
        self.most = max(self.most, self._reading)
        try:
            return await self._range(key, start, end, etag)
        finally:
            self._reading -= 1

    async def _range(self, key: str, start: int, end: int, etag: str) -> bytes:
        await asyncio.sleep(0.02 if start % 3 else 0.001)  # not in the order in which they were asked for
        with self._files.read(key) as reading:
            if reading.info.etag != etag:
                raise PreconditionFailedError(key)
            return os.pread(reading._descriptor, end - start, start)


@dataclass
class Setting:
    files: FileStore
    store: Store
    directory: Path

    async def fetch(self, made: Artifact, budget: DiskBudget | None = None, key: str = KEY) -> ObjectInfo | None:
        return await fetch(made, self.store, key, self.directory, budget or DiskBudget(None))

    def upload(self, made: Artifact, key: str = KEY, **options: Any) -> Upload:
        return Upload(made, self.store, key, self.directory, **options)

    def stored(self) -> list[str]:
        with self.files.read(KEY) as reading:
            Path(f"{self.directory}.tar").write_bytes(b"".join(reading))
        with tarfile.open(f"{self.directory}.tar") as opened:
            return opened.getnames()

    def settle(self) -> None:
        """Give everything an old time: a file that was written a moment ago could change and keep its time."""
        for path in self.directory.rglob("*"):
            os.utime(path, (1_000_000_000, 1_000_000_000))


KINDS: dict[str, Callable[[FileStore], Store]] = {
    "blocking": lambda files: files,
    "streaming": Streaming,
    "remote": Elsewhere,
}


@pytest.fixture(params=KINDS)
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Setting:
    files = FileStore(tmp_path / "store")
    return Setting(files, KINDS[request.param](files), tmp_path / "experiment" / "modeldir")


def artifact(**changes: Any) -> Artifact:
    values = {"label": "modeldir", "qualified": f"file:///store/{KEY}", "mutable": True, "unpack": True}
    return Artifact.model_validate(values | changes)


async def test_there_and_back(setting: Setting, tmp_path: Path):
    setting.files.write(KEY, [pack_file("a", b"x" * 3_000_000)])
    info = await setting.fetch(artifact())
    assert info == setting.files.info(KEY)
    assert (setting.directory / "a").read_bytes() == b"x" * 3_000_000
    upload = setting.upload(artifact())
    await upload.mark()
    assert not await upload.changed()
    (setting.directory / "b").write_text("new")
    assert await upload.changed()
    assert await upload.upload()
    assert setting.stored() == ["a", "b"]


async def test_an_immutable_artifact_must_be_there(setting: Setting):
    with pytest.raises(ArtifactMissingError, match=f"artifact modeldir is not at file:///store/{KEY}") as caught:
        await setting.fetch(artifact(mutable=False))
    assert caught.value.hint


async def test_a_mutable_artifact_that_is_missing_is_an_empty_directory(setting: Setting):
    assert await setting.fetch(artifact()) is None
    assert os.listdir(setting.directory) == []


async def test_an_artifact_that_is_not_unpacked_is_placed(setting: Setting):
    setting.files.write(KEY, [b"weights"])
    assert await setting.fetch(artifact(unpack=False))
    assert os.listdir(setting.directory) == ["modeldir.tar"]
    assert (setting.directory / "modeldir.tar").read_bytes() == b"weights"


async def test_what_is_no_archive_is_said_with_its_artifact(setting: Setting):
    setting.files.write(KEY, [b"PK\x03\x04 and so on" * 100])
    with pytest.raises(
        ArtifactInvalidError, match=rf"artifact modeldir \(file:///store/{KEY}\): is no tar archive"
    ):
        await setting.fetch(artifact())


async def test_passwords_in_an_address_are_not_said(setting: Setting):
    with pytest.raises(ArtifactMissingError) as caught:
        await setting.fetch(artifact(mutable=False, qualified="http://user:hunter2@host/key"))
    assert "hunter2" not in str(caught.value)


async def test_an_archive_over_budget(setting: Setting):
    setting.files.write(KEY, [pack_file("a", bytes(2000))])
    with pytest.raises(DiskExceededError, match=r"artifact modeldir .*at least 2,000 bytes"):
        await setting.fetch(artifact(), DiskBudget(1000))


async def test_a_file_over_budget_leaves_nothing(setting: Setting):
    setting.files.write(KEY, [bytes(3 * CHUNK)])
    with pytest.raises(DiskExceededError):
        await setting.fetch(artifact(unpack=False), DiskBudget(2 * CHUNK))
    assert os.listdir(setting.directory) == []


@pytest.mark.parametrize("way", [{"unpack": True}, {"unpack": False}])
async def test_the_hash_is_verified(setting: Setting, way: dict[str, bool]):
    data = pack_file("a", b"x" * 2_000_000)
    setting.files.write(KEY, [data])
    right = hashlib.sha256(data).hexdigest()
    assert await setting.fetch(artifact(mutable=False, **way, hash=right.upper()))
    with pytest.raises(ArtifactInvalidError, match=f"its SHA-256 is {right}, the message says 0000"):
        await setting.fetch(artifact(mutable=False, **way, hash="0" * 64))


async def test_the_hash_of_a_mutable_artifact_is_of_its_first_version(setting: Setting):
    setting.files.write(KEY, [pack_file("a", b"uploaded by an earlier attempt")])
    assert await setting.fetch(artifact(hash="0" * 64))


async def test_nothing_is_uploaded_twice(setting: Setting):
    setting.directory.mkdir(parents=True)
    (setting.directory / "a").write_text("x")
    setting.settle()
    upload = setting.upload(artifact())
    assert await upload.upload()
    first = setting.files.info(KEY)
    assert not await upload.upload()
    assert setting.files.info(KEY) == first


async def test_a_change_of_the_same_size_within_a_clock_tick_is_uploaded(setting: Setting):
    setting.directory.mkdir(parents=True)
    path = setting.directory / "a"
    path.write_text("one")
    now = path.stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(now, now))
    upload = setting.upload(artifact())
    assert await upload.upload()
    path.write_text("two")
    os.utime(path, ns=(now, now))
    assert await upload.upload()
    await setting.fetch(artifact())
    assert path.read_text() == "two"


async def test_an_empty_directory_is_not_uploaded(setting: Setting):
    await setting.fetch(artifact())
    fresh, marked = setting.upload(artifact()), setting.upload(artifact())
    await marked.mark()
    assert not await fresh.upload()
    assert not await marked.upload()
    assert [info.key for info in setting.files.entries()] == []


async def test_a_directory_that_was_emptied_is(setting: Setting):
    setting.files.write(KEY, [pack_file("a", b"x")])
    await setting.fetch(artifact())
    upload = setting.upload(artifact())
    await upload.mark()
    (setting.directory / "a").unlink()
    assert await upload.upload()
    assert setting.stored() == []
    assert not await upload.upload()


async def test_an_empty_directory_takes_the_place_of_what_is_stored(setting: Setting):
    setting.files.write(KEY, [pack_file("a", b"x")])
    setting.directory.mkdir(parents=True)
    assert await setting.upload(artifact()).upload()
    assert setting.stored() == []


async def test_a_directory_that_is_gone_leaves_the_stored_one(setting: Setting):
    setting.files.write(KEY, [pack_file("a", b"x")])
    await setting.fetch(artifact())
    upload = setting.upload(artifact())
    await upload.mark()
    (setting.directory / "a").unlink()
    setting.directory.rmdir()
    assert not await upload.upload()
    assert setting.stored() == ["a"]


@pytest.mark.parametrize("way", [{"unpack": True}, {"unpack": False}])
@pytest.mark.parametrize("stored", [[], [pack_file("a", b"x")]], ids=["missing", "stored"])
async def test_a_directory_that_became_a_link_is_not_uploaded(
    setting: Setting, tmp_path: Path, way: dict[str, bool], stored: list[bytes]
):
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/modeldir.tar").write_text("secret")
    if stored:
        setting.files.write(KEY, stored)
    await setting.fetch(artifact(**way))
    upload = setting.upload(artifact(**way))
    await upload.mark()
    before = list(setting.files.entries())
    shutil.rmtree(setting.directory)
    setting.directory.symlink_to(tmp_path / "secrets")
    assert not await upload.upload()
    assert not await setting.upload(artifact(**way)).upload()
    assert list(setting.files.entries()) == before


@pytest.mark.parametrize("suffix", [".tar", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst"])
async def test_compression_follows_the_key(setting: Setting, suffix: str):
    setting.directory.mkdir(parents=True)
    (setting.directory / "a").write_bytes(bytes(100_000))
    key = f"k/modeldir{suffix}"
    assert await setting.upload(artifact(), key).upload()
    assert (setting.files.info(key).size > 100_000) == (suffix == ".tar")
    (setting.directory / "a").unlink()
    assert await setting.fetch(artifact(), key=key)
    assert (setting.directory / "a").read_bytes() == bytes(100_000)


async def test_a_single_file_goes_back_as_it_is(setting: Setting):
    setting.files.write(KEY, [b"one"])
    await setting.fetch(artifact(unpack=False))
    upload = setting.upload(artifact(unpack=False))
    await upload.mark()
    assert not await upload.upload()
    (setting.directory / "modeldir.tar").write_bytes(b"two" * 1_000_000)
    (setting.directory / "notes.txt").write_text("not the artifact")
    assert await upload.upload()
    with setting.files.read(KEY) as reading:
        assert b"".join(reading) == b"two" * 1_000_000


async def test_the_only_file_stands_for_the_artifact(setting: Setting):
    setting.directory.mkdir(parents=True)
    upload = setting.upload(artifact(unpack=False))
    assert not await upload.upload()
    (setting.directory / "model.h5").write_bytes(b"weights")
    assert await upload.upload()
    with setting.files.read(KEY) as reading:
        assert b"".join(reading) == b"weights"


async def test_a_link_does_not_stand_for_the_artifact(setting: Setting, tmp_path: Path):
    (tmp_path / "secret").write_text("secret")
    setting.directory.mkdir(parents=True)
    (setting.directory / "modeldir.tar").symlink_to(tmp_path / "secret")
    assert not await setting.upload(artifact(unpack=False)).upload()


async def test_several_files_cannot_be_one(setting: Setting):
    setting.directory.mkdir(parents=True)
    for name in "abc":
        (setting.directory / name).write_text(name)
    with pytest.raises(ArtifactInvalidError, match=r"3 files are there|3 are there \(a, b, \.\.\.\)"):
        await setting.upload(artifact(unpack=False)).upload()


async def test_notes_are_handed_on(setting: Setting):
    setting.directory.mkdir(parents=True)
    (setting.directory / "a").write_text("x")
    os.mkfifo(setting.directory / "pipe")
    notes: list[str] = []
    assert await setting.upload(artifact(), note=notes.append).upload()
    assert notes == ["pipe is left out: it is a socket, a pipe or a device"]


async def test_few_notes_are_handed_on_and_each_once(setting: Setting):
    """A script can make a million pipes, and an upload comes every few seconds."""
    setting.directory.mkdir(parents=True)
    for number in range(100):
        os.mkfifo(setting.directory / f"pipe{number:03}")
    notes: list[str] = []
    upload = setting.upload(artifact(), note=notes.append)
    for content in ("one", "two"):
        (setting.directory / "file").write_text(content)
        assert await upload.upload()
    assert notes == [
        *(f"pipe{number:03} is left out: it is a socket, a pipe or a device" for number in range(20)),
        "there is more that is left out like this",
    ]


async def test_a_failed_upload_is_tried_again(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    setting.directory.mkdir(parents=True)
    (setting.directory / "a").write_text("x")
    setting.settle()
    upload = setting.upload(artifact())

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageUnavailableError, match=r"artifact modeldir .* is full"):
        await upload.upload()
    monkeypatch.undo()
    assert await upload.upload()
    assert setting.stored() == ["a"]


async def test_refused_rights_are_said(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    setting.files.write(KEY, [pack_file("a", b"x")])

    def refuse(self, key, place):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(FileStore, "_open", refuse)
    with pytest.raises(UnauthorisedError, match="artifact modeldir"):
        await setting.fetch(artifact())


LARGE = 3 * upload_module.SMALL
NAMES = ("small", "large", "missing")


async def test_many_are_fetched_at_once(setting: Setting):
    setting.files.write("small.tar", [pack_file("a", b"x")])
    setting.files.write("large.tar", [pack_file("a", bytes(LARGE))])
    uploads = {name: Upload(artifact(), setting.store, f"{name}.tar", setting.directory / name) for name in NAMES}
    await fetch_all([fetching(setting, name, uploads[name]) for name in NAMES], [], DiskBudget(None))
    assert {path.name: len(os.listdir(path)) for path in setting.directory.iterdir()} == {
        "small": 1,
        "large": 1,
        "missing": 0,
    }
    assert not await uploads["small"].changed()
    assert not await uploads["large"].changed()


def fetching(setting: Setting, name: str, upload: Upload | None = None, **changes: Any) -> Fetch:
    return Fetch(artifact(label=name, **changes), setting.store, f"{name}.tar", setting.directory / name, upload)


@pytest.mark.parametrize("size", [1, LARGE])
async def test_one_that_cannot_be_fetched_is_named(setting: Setting, size: int):
    setting.files.write("small.tar", [pack_file("a", bytes(size))])
    wanted = [fetching(setting, "small"), fetching(setting, "missing", mutable=False)]
    with pytest.raises(ExceptionGroup) as caught:
        await fetch_all(wanted, [], DiskBudget(None))
    assert [type(error) for error in caught.value.exceptions] == [ArtifactMissingError]
    assert "artifact missing is not at" in str(caught.value.exceptions[0])


async def test_many_are_uploaded_at_once_and_an_error_stops_none(setting: Setting):
    uploads = []
    for name, size in (("unnamed", 1), ("small", 1), ("large", LARGE)):
        directory = setting.directory / name
        directory.mkdir(parents=True)
        (directory / "a").write_bytes(bytes(size))
        (directory / "b").write_bytes(b"")
        made = artifact(label=name, unpack=name != "unnamed")
        uploads.append(Upload(made, setting.store, f"{name}.tar", directory))
    with pytest.raises(ArtifactInvalidError, match=r"artifact unnamed .* 2 are there"):
        await upload_all(uploads, [])
    assert [info.key for info in setting.files.entries()] == ["large.tar", "small.tar"]


class Halfway:
    """Cancels a task from the thread in which it has got somewhere."""

    def __init__(self, after: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.task: asyncio.Task[Any] | None = None
        self.left = after

    def step(self) -> None:
        self.left -= 1
        if self.left == 0 and self.task is not None:
            self.loop.call_soon_threadsafe(self.task.cancel)


async def test_a_cancelled_upload_leaves_the_old_object(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    old = setting.files.write(KEY, [pack_file("old", b"x")])
    setting.directory.mkdir(parents=True)
    with open(setting.directory / "big", "wb") as file:
        file.truncate(50 * CHUNK)
    halfway = Halfway(after=3)

    def watched(*args, **kwargs):
        for piece in pack(*args, **kwargs):
            halfway.step()
            yield piece

    monkeypatch.setattr(upload_module, "pack", watched)
    upload = setting.upload(artifact())
    before = set(os.listdir("/proc/self/fd"))
    halfway.task = asyncio.create_task(upload.upload())
    with pytest.raises(asyncio.CancelledError):
        await halfway.task
    assert set(os.listdir("/proc/self/fd")) <= before
    assert halfway.left > -45, "it went on to the end"
    assert setting.files.info(KEY) == old
    assert os.listdir(setting.files._root + "/experiments/k") == ["modeldir.tar"]
    monkeypatch.undo()
    os.truncate(setting.directory / "big", 10)
    assert await upload.upload(), "it can be tried again"
    assert setting.stored() == ["big"]


async def test_a_cancelled_fetch_ends_before_the_archive_does(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    (setting.directory.parent / "source").mkdir(parents=True)
    with open(setting.directory.parent / "source/big", "wb") as file:
        file.truncate(50 * CHUNK)
    setting.files.write(KEY, pack(setting.directory.parent / "source"))
    halfway = Halfway(after=3)
    budget = DiskBudget(None)
    feed = fetching_module.Unpacker.feed

    def watched(self, chunk):
        halfway.step()
        feed(self, chunk)

    monkeypatch.setattr(fetching_module.Unpacker, "feed", watched)
    before = set(os.listdir("/proc/self/fd"))
    halfway.task = asyncio.create_task(setting.fetch(artifact(), budget))
    with pytest.raises(asyncio.CancelledError):
        await halfway.task
    assert set(os.listdir("/proc/self/fd")) <= before
    assert (setting.directory / "big").stat().st_size < 45 * CHUNK


async def test_a_cancelled_placement_leaves_no_file(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    setting.files.write(KEY, [bytes(30 * CHUNK)])
    halfway = Halfway(after=3)
    feed = fetching_module.Placement.feed

    def watched(self, chunk):
        halfway.step()
        feed(self, chunk)

    monkeypatch.setattr(fetching_module.Placement, "feed", watched)
    halfway.task = asyncio.create_task(setting.fetch(artifact(unpack=False)))
    with pytest.raises(asyncio.CancelledError):
        await halfway.task
    assert os.listdir(setting.directory) == []


async def test_uploads_of_one_artifact_take_turns(setting: Setting):
    setting.directory.mkdir(parents=True)
    (setting.directory / "a").write_bytes(bytes(2 * CHUNK))
    setting.settle()
    upload = setting.upload(artifact())
    assert sorted(await asyncio.gather(*(upload.upload() for _ in range(4)))) == [False, False, False, True]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Setting:
    files = FileStore(tmp_path / "store")
    return Setting(files, Elsewhere(files), tmp_path / "experiment" / "modeldir")


def asked(setting: Setting) -> Counter[str]:
    assert isinstance(setting.store, Elsewhere)
    return setting.store.asked


async def test_a_small_object_takes_one_request(elsewhere: Setting):
    elsewhere.files.write(KEY, [pack_file("a", b"x" * 100_000)])
    await elsewhere.fetch(artifact())
    assert asked(elsewhere) == {"open": 1}


async def test_one_that_is_missing_takes_one_request_too(elsewhere: Setting):
    await elsewhere.fetch(artifact())
    assert asked(elsewhere) == {"open": 1}
    assert elsewhere.directory.is_dir()


@pytest.mark.parametrize("size", [PART, PART + 1, 20 * PART + 12_345])
async def test_a_large_object_is_read_by_ranges_and_put_together(elsewhere: Setting, size: int):
    content = random.Random(1).randbytes(size)
    elsewhere.files.write(KEY, [content])
    await elsewhere.fetch(artifact(unpack=False))
    assert (elsewhere.directory / "modeldir.tar").read_bytes() == content
    assert asked(elsewhere)["range"] == (size - 1) // PART


async def test_reading_ahead_is_bounded(elsewhere: Setting, monkeypatch: pytest.MonkeyPatch):
    elsewhere.files.write(KEY, [bytes(20 * PART)])
    held = threading.Event()
    feed = fetching_module.Placement.feed

    def held_up(self, chunk):
        held.wait(100)
        feed(self, chunk)

    monkeypatch.setattr(fetching_module.Placement, "feed", held_up)
    task = asyncio.create_task(elsewhere.fetch(artifact(unpack=False)))
    async with asyncio.timeout(60):
        while asked(elsewhere)["range"] < WINDOW - 1:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    assert asked(elsewhere)["range"] == WINDOW - 1
    held.set()
    assert (await task).size == 20 * PART
    assert elsewhere.store.most > 1, "one range after the other"


async def test_an_object_that_is_replaced_while_it_is_read(elsewhere: Setting, monkeypatch: pytest.MonkeyPatch):
    elsewhere.files.write(KEY, [bytes(5 * PART)])

    async def other(*args):
        raise PreconditionFailedError("another version")

    monkeypatch.setattr(elsewhere.store, "read_range", other)
    with pytest.raises(StorageUnavailableError, match=r"artifact modeldir .* was replaced while it was read"):
        await elsewhere.fetch(artifact(unpack=False))
    assert os.listdir(elsewhere.directory) == []


async def test_a_broken_range_ends_the_transfer(elsewhere: Setting, monkeypatch: pytest.MonkeyPatch):
    elsewhere.files.write(KEY, [bytes(16 * PART)])
    there = elsewhere.store.read_range

    async def broken(key, start, end, etag):
        if start >= 10 * PART:
            raise StorageUnavailableError("503 SlowDown")
        return await there(key, start, end, etag)

    monkeypatch.setattr(elsewhere.store, "read_range", broken)
    with pytest.raises(StorageUnavailableError, match=r"artifact modeldir .*503 SlowDown"):
        await elsewhere.fetch(artifact(unpack=False))
    assert os.listdir(elsewhere.directory) == []


@pytest.mark.parametrize("size", [10, 3 * PART], ids=["small", "large"])
async def test_our_own_version_is_replaced_without_asking(setting: Setting, size: int):
    async def never() -> None:
        raise AssertionError("asked")

    upload = setting.upload(artifact(), still_mine=never)
    setting.directory.mkdir(parents=True)
    for letter in "abc":
        with open(setting.directory / letter, "wb") as file:
            file.truncate(size)
        assert await upload.upload()
    assert setting.stored() == ["a", "b", "c"]


@pytest.mark.parametrize("size", [10, 3 * PART], ids=["small", "large"])
async def test_a_fetched_version_is_replaced_without_asking(setting: Setting, size: int):
    async def never() -> None:
        raise AssertionError("asked")

    setting.files.write(KEY, [pack_file("a", bytes(size))])
    upload = setting.upload(artifact(), still_mine=never)
    await fetch_all([Fetch(artifact(), setting.store, KEY, setting.directory, upload)], [], DiskBudget(None))
    (setting.directory / "b").write_bytes(b"new")
    assert await upload.upload()
    assert setting.stored() == ["a", "b"]


@pytest.mark.parametrize("size", [10, 3 * PART], ids=["small", "large"])
async def test_a_successors_version_is_not_replaced(setting: Setting, size: int):
    async def taken_over() -> None:
        raise LeaseLostError("attempt 2 has it")

    upload = setting.upload(artifact(), still_mine=taken_over)
    setting.directory.mkdir(parents=True)
    (setting.directory / "a").write_bytes(bytes(size))
    assert await upload.upload()
    theirs = setting.files.write(KEY, [pack_file("theirs", b"x")])
    (setting.directory / "b").write_bytes(bytes(size))
    with pytest.raises(LeaseLostError):
        await upload.upload()
    assert setting.files.info(KEY) == theirs


@pytest.mark.parametrize("size", [10, 3 * PART], ids=["small", "large"])
async def test_a_predecessors_version_is_replaced_after_asking(setting: Setting, size: int):
    questions = []

    async def mine() -> None:
        questions.append(1)

    setting.files.write(KEY, [pack_file("predecessor", b"x")])
    upload = setting.upload(artifact(), still_mine=mine)
    setting.directory.mkdir(parents=True)
    (setting.directory / "a").write_bytes(bytes(size))
    assert await upload.upload()
    assert setting.stored() == ["a"]
    assert questions == [1]


async def test_a_successor_that_writes_after_we_were_told_that_it_is_ours(setting: Setting):
    answers = []

    async def just_before_the_takeover() -> None:
        answers.append(1)
        if len(answers) > 1:
            raise LeaseLostError("attempt 2 has it")
        setting.files.write(KEY, [pack_file("successor", b"x")])

    setting.files.write(KEY, [pack_file("predecessor", b"x")])
    upload = setting.upload(artifact(), still_mine=just_before_the_takeover)
    setting.directory.mkdir(parents=True)
    (setting.directory / "a").write_bytes(b"x")
    with pytest.raises(LeaseLostError):
        await upload.upload()
    assert setting.stored() == ["successor"]


async def test_somebody_who_keeps_writing(setting: Setting):
    async def mine() -> None:
        setting.files.write(KEY, [pack_file("somebody", b"x")])

    setting.files.write(KEY, [b"x"])
    upload = setting.upload(artifact(), still_mine=mine)
    setting.directory.mkdir(parents=True)
    (setting.directory / "a").write_bytes(b"x")
    with pytest.raises(StorageUnavailableError, match=r"artifact modeldir .*somebody else keeps writing it"):
        await upload.upload()


async def test_small_artifacts_of_a_successor_are_not_replaced(setting: Setting):
    async def taken_over() -> None:
        raise LeaseLostError("attempt 2 has it")

    upload = setting.upload(artifact(), still_mine=taken_over)
    setting.directory.mkdir(parents=True)
    (setting.directory / "a").write_bytes(b"x")
    await upload_all([upload], [])
    assert setting.stored() == ["a"]
    theirs = setting.files.write(KEY, [pack_file("theirs", b"x")])
    (setting.directory / "b").write_bytes(b"x")
    with pytest.raises(LeaseLostError):
        await upload_all([upload], [])
    assert setting.files.info(KEY) == theirs


def test_file_addresses_open_a_store(tmp_path: Path):
    store, key = open_store(Location("file", "", "", f"{tmp_path}/experiments/k/output.tar"))
    assert isinstance(store, FileStore)
    store.write(key, [b"x"])
    assert (tmp_path / "experiments/k/output.tar").read_bytes() == b"x"


@pytest.mark.parametrize("path", ["relative/path", "/a/../b", "/a/", "/a/..", "/"])
def test_file_addresses_that_name_no_file(path: str):
    with pytest.raises(ArtifactInvalidError, match="names no file"):
        open_store(Location("file", "", "", path))


def test_an_unknown_scheme_names_the_known_ones():
    with pytest.raises(ArtifactInvalidError, match="ftp://") as caught:
        open_store(Location("ftp", "host", "", "key"))
    assert "file://" in (caught.value.hint or "")
