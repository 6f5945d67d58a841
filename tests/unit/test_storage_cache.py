"""Immutable artifacts that are kept between experiments."""

import asyncio
import bz2
import fcntl
import hashlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from studio_runner.errors import (
    ArtifactInvalidError,
    ArtifactMissingError,
    DiskExceededError,
    StorageUnavailableError,
    UnauthorisedError,
)
from studio_runner.messages.artifact import Artifact
from studio_runner.storage import kept
from studio_runner.storage.archive import pack_file
from studio_runner.storage.base import ObjectInfo, Store
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.cache import STALLED, ArtifactCache, kept_name
from studio_runner.storage.compression import Compression
from studio_runner.storage.draft import Draft
from studio_runner.storage.files import FileStore
from studio_runner.storage.ranges import PART
from studio_runner.storage.tar import END
from studio_runner.storage.transfer import Fetch, fetch, fetch_all

MEGABYTE = 1 << 20
KEY = "data/set.tar"


class Elsewhere(FileStore):
    """As across the network: asked with an experiment's own credentials. Counts what it is asked."""

    here = None  # type: ignore[assignment]

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: Counter[str] = Counter()
        self.refusal: Exception | None = None
        self.gate: asyncio.Event | None = None

    @property
    def there(self) -> Self:
        return self

    async def head(self, key: str) -> ObjectInfo:
        self.asked["head"] += 1
        if self.refusal:
            raise self.refusal
        return await super().head(key)

    async def read_range(self, key: str, start: int, end: int, etag: str) -> bytes:
        self.asked["range"] += 1
        with self.read(key) as reading:
            return b"".join(reading)[start:end]

    @asynccontextmanager
    async def open(self, key: str) -> AsyncIterator[tuple[ObjectInfo, AsyncIterator[bytes]]]:
        self.asked["open"] += 1
        if self.refusal:
            raise self.refusal
        async with aclosing(self.get(key)) as stream:
            info = await super().head(key)
            if self.gate:
                await self.gate.wait()
            yield info, stream


@dataclass
class Setting:
    store: Elsewhere
    cache: ArtifactCache
    place: Path
    count: int = field(default=0)

    async def fetch(self, key: str = KEY, *, budget: int | None = None, **changes: Any) -> Path:
        """Where an experiment has it."""
        self.count += 1
        directory = self.place / f"experiment-{self.count}"
        made = artifact(key, **changes)
        await fetch(made, self.store, key, directory, DiskBudget(budget), cache=self.cache)
        return directory

    @property
    def asked(self) -> dict[str, int]:
        """Since the last time."""
        asked = dict(self.store.asked)
        self.store.asked.clear()
        return asked

    @property
    def kept(self) -> list[Path]:
        return sorted(self.directory.iterdir())

    @property
    def directory(self) -> Path:
        return self.place / "cache/artifacts"


def artifact(key: str = KEY, **changes: Any) -> Artifact:
    values = {"label": "data", "qualified": f"s3://host:8333/bucket/{key}", "mutable": False, "unpack": True}
    return Artifact.model_validate(values | changes)


@pytest.fixture
async def setting(tmp_path: Path) -> AsyncIterator[Setting]:
    store = Elsewhere(tmp_path / "store")
    async with ArtifactCache(tmp_path / "cache/artifacts", 8 * MEGABYTE) as cache:
        yield Setting(store, cache, tmp_path)


async def test_the_second_experiment_only_asks_whether_it_is_the_same(setting: Setting):
    setting.store.write(KEY, [pack_file("a", b"x" * 3 * MEGABYTE)])
    await setting.fetch()
    assert setting.asked == {"open": 1}
    directory = await setting.fetch()
    assert setting.asked == {"head": 1}
    assert (directory / "a").read_bytes() == b"x" * 3 * MEGABYTE
    name = kept_name(artifact())
    assert (setting.cache.hits, setting.cache.misses) == ({name: 1}, {name: 1})


async def test_what_an_experiment_does_with_its_copy_is_its_own(setting: Setting):
    setting.store.write(KEY, [pack_file("a", b"original")])
    for _ in range(3):
        path = await setting.fetch() / "a"
        assert path.read_bytes() == b"original"
        with path.open("r+b") as file:
            file.write(b"scribble")


async def test_a_new_version_is_fetched(setting: Setting):
    setting.store.write(KEY, [pack_file("a", b"old")])
    await setting.fetch()
    setting.store.write(KEY, [pack_file("a", b"new")])
    assert (await setting.fetch() / "a").read_bytes() == b"new"
    assert (await setting.fetch() / "a").read_bytes() == b"new"
    assert setting.asked == {"open": 2, "head": 2}
    assert len(setting.kept) == 1


async def test_what_the_store_refuses_is_not_given_from_the_cache(setting: Setting):
    setting.store.write(KEY, [pack_file("a", b"secret")])
    await setting.fetch()
    setting.store.refusal = UnauthorisedError("these credentials may not read it")
    with pytest.raises(UnauthorisedError, match=r"artifact data .* may not read it"):
        await setting.fetch()
    assert not (setting.place / "experiment-2").exists()


async def test_what_is_gone_from_the_store_is_missing(setting: Setting):
    setting.store.write(KEY, [pack_file("a", b"x")])
    await setting.fetch()
    setting.store.remove(KEY)
    with pytest.raises(ArtifactMissingError):
        await setting.fetch()


@pytest.mark.parametrize("kind", Compression)
async def test_it_is_kept_decompressed(setting: Setting, kind: Compression):
    setting.store.write(KEY, [pack_file("a", bytes(2 * MEGABYTE), kind)])
    for _ in range(2):
        assert (await setting.fetch() / "a").read_bytes() == bytes(2 * MEGABYTE)
    assert setting.asked == {"open": 1, "head": 1}
    assert setting.kept[0].stat().st_size > 2 * MEGABYTE


async def test_a_compressed_archive_without_an_end_marker(setting: Setting):
    content = pack_file("a", b"x" * 600).removesuffix(END)
    setting.store.write(KEY, [bz2.compress(content)])
    for _ in range(2):
        assert (await setting.fetch() / "a").read_bytes() == b"x" * 600
    assert setting.asked == {"open": 1, "head": 1}


async def test_a_file_is_kept_as_it_is_and_apart_from_the_archive(setting: Setting):
    content = pack_file("a", b"x", Compression.GZIP)
    setting.store.write(KEY, [content])
    for _ in range(2):
        assert (await setting.fetch(unpack=False) / "set.tar").read_bytes() == content
        assert (await setting.fetch() / "a").read_bytes() == b"x"
    assert setting.asked == {"open": 2, "head": 2}


async def test_large_files_come_by_ranges(setting: Setting):
    content = random.Random(1).randbytes(3 * PART + 17)
    setting.store.write(KEY, [content])
    async with ArtifactCache(setting.directory, 4 * PART) as setting.cache:
        for _ in range(2):
            assert (await setting.fetch(unpack=False) / "set.tar").read_bytes() == content
    assert setting.asked == {"open": 1, "range": 3, "head": 1}


async def test_an_empty_file(setting: Setting):
    setting.store.write(KEY, [])
    for _ in range(2):
        assert (await setting.fetch(unpack=False) / "set.tar").read_bytes() == b""
    assert setting.asked == {"open": 1, "head": 1}


async def test_the_hash_counts_for_what_is_kept_too(setting: Setting):
    content = pack_file("a", b"x", Compression.GZIP)
    setting.store.write(KEY, [content])
    await setting.fetch()
    await setting.fetch(hash=hashlib.sha256(content).hexdigest())
    assert setting.asked == {"open": 1, "head": 1}
    with pytest.raises(ArtifactInvalidError, match=r"artifact data .* is not what was sent"):
        await setting.fetch(hash="0" * 64)


@pytest.mark.parametrize(
    "content", [b"no archive at all" * 100, pack_file("a", bytes(5000))[:3000]], ids=["no archive", "cut short"]
)
async def test_what_cannot_be_used_is_not_kept(setting: Setting, content: bytes):
    setting.store.write(KEY, [content])
    with pytest.raises(ArtifactInvalidError):
        await setting.fetch()
    assert setting.kept == []


async def test_what_is_not_what_was_promised_is_not_kept(setting: Setting):
    setting.store.write(KEY, [pack_file("a", b"x")])
    with pytest.raises(ArtifactInvalidError):
        await setting.fetch(hash="0" * 64)
    assert setting.kept == []


async def test_a_hit_counts_against_the_experiments_disk(setting: Setting):
    setting.store.write(KEY, [pack_file("a", bytes(MEGABYTE))])
    await setting.fetch()
    with pytest.raises(DiskExceededError):
        await setting.fetch(budget=MEGABYTE // 2)


async def test_the_least_recently_used_makes_room(setting: Setting):
    keys = [f"data/{letter}.tar" for letter in "abc"]
    for number, key in enumerate(keys):
        setting.store.write(key, [pack_file("x", bytes(3 * MEGABYTE))])
        if number < 2:
            await setting.fetch(key)
            os.utime(setting.directory / kept_name(artifact(key)), (number, number))
    await setting.fetch(keys[0])  # the older one is used again
    await setting.fetch(keys[2])
    assert {path.name for path in setting.kept} == {kept_name(artifact(keys[0])), kept_name(artifact(keys[2]))}


async def test_what_is_in_use_is_not_evicted(setting: Setting):
    setting.store.write(KEY, [pack_file("x", bytes(5 * MEGABYTE))])
    setting.store.write("other.tar", [pack_file("y", bytes(5 * MEGABYTE))])
    await setting.fetch()
    used = setting.cache.find(kept_name(artifact()))
    assert used is not None
    with used:
        await setting.fetch("other.tar")
        assert (setting.directory / kept_name(artifact())).exists()


async def test_what_is_larger_than_the_cache_is_not_kept(setting: Setting):
    setting.store.write("small.tar", [pack_file("a", b"x")])
    await setting.fetch("small.tar")
    setting.store.write(KEY, [pack_file("a", bytes(9 * MEGABYTE))])
    setting.store.write("bomb.tgz", [pack_file("a", bytes(9 * MEGABYTE), Compression.GZIP)])
    await setting.fetch()
    await setting.fetch("bomb.tgz")
    assert [path.name for path in setting.kept] == [kept_name(artifact("small.tar"))]


async def test_it_keeps_to_its_budget_when_archives_expand(setting: Setting):
    for number in range(5):
        setting.store.write(f"{number}.tgz", [pack_file("a", bytes(3 * MEGABYTE), Compression.GZIP)])
        await setting.fetch(f"{number}.tgz")
        assert sum(path.stat().st_size for path in setting.kept) <= 8 * MEGABYTE


async def test_several_at_once_fetch_it_once(setting: Setting):
    setting.store.write(KEY, [pack_file("a", b"x" * MEGABYTE)])
    directories = await asyncio.gather(*(setting.fetch() for _ in range(6)))
    assert setting.asked == {"open": 1, "head": 5}
    assert {(directory / "a").stat().st_size for directory in directories} == {MEGABYTE}
    assert sum(setting.cache.hits.values()) == 5


async def test_two_runners_fetch_it_once(setting: Setting):
    setting.store.write(KEY, [pack_file("a", b"x")])
    setting.store.gate = asyncio.Event()
    async with ArtifactCache(setting.directory, 8 * MEGABYTE) as other:
        second = Setting(setting.store, other, setting.place, count=100)
        fetching = [asyncio.create_task(one.fetch()) for one in (setting, second)]
        await asyncio.sleep(0.2)
        setting.store.gate.set()
        await asyncio.gather(*fetching)
    assert setting.asked == {"open": 1, "head": 1}
    assert [path.name for path in setting.kept] == [kept_name(artifact())]


@pytest.mark.parametrize("end", ["error", "cancelled"])
async def test_when_the_first_one_fails_the_next_one_fetches(setting: Setting, end: str):
    setting.store.write(KEY, [pack_file("a", b"x")])
    setting.store.gate = asyncio.Event()
    first = asyncio.create_task(setting.fetch(budget=0))
    others = []
    while setting.store.asked["open"] == 0:
        await asyncio.sleep(0.01)
    others += [asyncio.create_task(setting.fetch()) for _ in range(3)]
    await asyncio.sleep(0.05)
    if end == "cancelled":
        first.cancel()
    setting.store.gate.set()
    with pytest.raises(DiskExceededError if end == "error" else asyncio.CancelledError):
        await first
    assert [(directory / "a").read_bytes() for directory in await asyncio.gather(*others)] == [b"x"] * 3
    assert setting.asked == {"open": 2, "head": 2}


async def test_nobody_waits_for_one_that_stands_still(setting: Setting):
    setting.store.write(KEY, [pack_file("a", b"x")])
    lock = setting.directory / f"{kept_name(artifact())}.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        os.utime(lock, (0, 0))
        assert STALLED > 0
        assert (await setting.fetch() / "a").read_bytes() == b"x"
        assert setting.kept == [lock]


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 5000])
async def test_a_damaged_one_is_fetched_again(setting: Setting, damage: bytes):
    setting.store.write(KEY, [pack_file("a", b"x")])
    await setting.fetch()
    setting.kept[0].write_bytes(damage)
    assert (await setting.fetch() / "a").read_bytes() == b"x"
    assert (await setting.fetch() / "a").read_bytes() == b"x"
    assert setting.asked == {"open": 2, "head": 1}


@pytest.mark.parametrize("content", ["sound", "lost"])
async def test_after_a_start_of_the_machine_it_is_checked(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, content: str
):
    setting.store.write(KEY, [pack_file("a", b"precious" * 1000)])
    await setting.fetch()
    monkeypatch.setattr(kept, "boot_id", lambda: "another start")
    if content == "lost":  # its blocks never reached the disk
        with setting.kept[0].open("r+b") as file:
            file.seek(1024)
            file.write(bytes(4096))
    assert (await setting.fetch() / "a").read_bytes() == b"precious" * 1000
    assert setting.asked == ({"open": 1, "head": 1} if content == "sound" else {"open": 2})
    with setting.kept[0].open("r+b") as file:
        file.seek(1024)
        file.write(b"changed!")
    assert b"changed!" in (await setting.fetch() / "a").read_bytes(), "it was looked at once more"


async def test_a_disk_that_is_full_keeps_no_experiment_from_its_artifact(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
):
    def full(self, data):
        raise OSError(28, "No space left on device")

    setting.store.write(KEY, [pack_file("a", b"x")])
    monkeypatch.setattr(Draft, "write", full)
    assert (await setting.fetch() / "a").read_bytes() == b"x"
    assert setting.kept == []


async def test_a_cache_that_is_gone_keeps_no_experiment_from_its_artifact(setting: Setting):
    setting.store.write(KEY, [pack_file("a", b"x")])
    await setting.fetch()
    for path in setting.kept:
        path.unlink()
    setting.directory.rmdir()
    setting.directory.write_text("in the way")
    assert (await setting.fetch() / "a").read_bytes() == b"x"


async def test_what_a_killed_runner_left_is_cleared(setting: Setting):
    lock, part = setting.directory / f"{'0' * 40}.lock", setting.directory / ".studio-runner-00.part"
    lock.write_bytes(b"")
    part.write_bytes(b"half")
    os.utime(part, (0, 0))
    async with ArtifactCache(setting.directory, MEGABYTE):
        assert setting.kept == []


async def test_a_smaller_budget_than_last_time(setting: Setting):
    setting.store.write(KEY, [pack_file("a", bytes(3 * MEGABYTE))])
    await setting.fetch()
    async with ArtifactCache(setting.directory, MEGABYTE):
        assert setting.kept == []


async def test_only_its_owner_can_read_it(setting: Setting):
    assert setting.directory.stat().st_mode & 0o077 == 0


async def test_what_changes_is_not_kept(setting: Setting):
    setting.store.write(KEY, [pack_file("a", b"x")])
    await setting.fetch(mutable=True)
    assert setting.kept == []


async def test_what_is_on_this_machine_is_not_kept(setting: Setting):
    files: Store = FileStore(setting.place / "store")
    setting.store.write(KEY, [pack_file("a", bytes(MEGABYTE))])
    one = Fetch(artifact(), files, KEY, setting.place / "there", None)
    await fetch_all([one], [], DiskBudget(None), setting.cache)
    assert (setting.place / "there/a").exists()
    assert setting.kept == []


@pytest.mark.parametrize("etag", ["", 'W/"1"', "x" * 2000])
async def test_without_a_version_to_compare_nothing_is_kept(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, etag: str
):
    setting.store.write(KEY, [pack_file("a", b"x")])
    there = setting.store.open

    @asynccontextmanager
    async def unversioned(key):
        async with there(key) as (info, stream):
            yield ObjectInfo(info.key, info.size, etag, info.modified), stream

    monkeypatch.setattr(setting.store, "open", unversioned)
    assert (await setting.fetch() / "a").read_bytes() == b"x"
    assert setting.kept == []


async def test_a_store_that_is_away_is_said(setting: Setting):
    setting.store.refusal = StorageUnavailableError("503")
    with pytest.raises(StorageUnavailableError, match=r"artifact data .* 503"):
        await setting.fetch()
    assert setting.kept == []
