"""Artifacts to and from a real S3 server: large ones, conditional ones, and those that are cancelled."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from servers.seaweedfs import SeaweedS3
from studio_runner.errors import ArtifactMissingError, LeaseLostError, UnauthorisedError
from studio_runner.messages.artifact import Artifact
from studio_runner.storage.access import Access
from studio_runner.storage.archive import pack
from studio_runner.storage.base import ObjectInfo, Store
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.cache import ArtifactCache
from studio_runner.storage.ranges import PART
from studio_runner.storage.registry import Stores
from studio_runner.storage.transfer import Fetch, Upload, fetch, fetch_all, upload_all


@dataclass
class Place:
    server: SeaweedS3
    bucket: str
    stores: Stores
    root: Path

    def artifact(self, key: str, **changes: Any) -> Artifact:
        secret = changes.pop("secret", self.server.secret_key)
        credentials = {"aws": {"access_key": self.server.access_key, "secret_access_key": secret}}
        address = f"s3://{self.server.endpoint}/{self.bucket}/{key}"
        values = {"label": "data", "qualified": address, "unpack": True, "credentials": credentials}
        return Artifact.model_validate(values | changes)

    def open(self, artifact: Artifact) -> tuple[Store, str]:
        return self.stores.open(artifact.location, Access(artifact.credentials))

    def upload(self, key: str, directory: Path, **options: Any) -> Upload:
        artifact = self.artifact(key, mutable=True)
        return Upload(artifact, *self.open(artifact), directory, **options)

    async def fetch(self, key: str, name: str, *, cache: ArtifactCache | None = None, **changes: Any) -> Path:
        artifact = self.artifact(key, **changes)
        directory = self.root / name
        await fetch(artifact, *self.open(artifact), directory, DiskBudget(None), cache=cache)
        return directory

    async def info(self, key: str) -> ObjectInfo:
        store, key = self.open(self.artifact(key))
        return await store.head(key)

    def files(self, name: str, **sizes: int) -> Path:
        directory = self.root / name
        directory.mkdir(exist_ok=True)
        for file, size in sizes.items():
            (directory / file).write_bytes(random.Random(size).randbytes(size))
        return directory


@pytest.fixture
async def place(s3: SeaweedS3, bucket: str, tmp_path: Path) -> AsyncIterator[Place]:
    async with Stores() as stores:
        yield Place(s3, bucket, stores, tmp_path)


def same(one: Path, other: Path) -> bool:
    return list(pack(one, mtime=0)) == list(pack(other, mtime=0))


@pytest.mark.parametrize("suffix", [".tar", ".tgz"])
async def test_a_large_tree_goes_there_and_back(place: Place, suffix: str):
    source = place.files("source", large=3 * PART + 12_345, small=10, empty=0)
    assert await place.upload(f"k/data{suffix}", source).upload()
    assert (await place.info(f"k/data{suffix}")).size > 3 * PART
    assert same(source, await place.fetch(f"k/data{suffix}", "back"))


async def test_many_small_ones_go_there_and_back_side_by_side(place: Place):
    names = [f"n{number}" for number in range(40)]
    sources = {name: place.files(name, file=number) for number, name in enumerate(names)}
    await upload_all([place.upload(f"k/{name}.tar", sources[name]) for name in names], [])
    artifacts = {name: place.artifact(f"k/{name}.tar", label=name) for name in names}
    fetches = [Fetch(one, *place.open(one), place.root / f"back-{name}", None) for name, one in artifacts.items()]
    await fetch_all(fetches, [], DiskBudget(None))
    assert all(same(sources[name], place.root / f"back-{name}") for name in names)


@pytest.mark.parametrize("size", [10, 3 * PART], ids=["small", "large"])
async def test_a_runner_believed_dead_does_not_overwrite_its_successor(place: Place, size: int):
    async def taken_over() -> None:
        raise LeaseLostError("attempt 2 has it")

    async def mine() -> None:
        pass

    theirs = place.files("theirs", a=size)
    dead = place.upload("k/modeldir.tar", theirs, still_mine=taken_over)
    assert await dead.upload()
    successor = place.upload("k/modeldir.tar", place.files("successor", b=size), still_mine=mine)
    assert await successor.upload()
    after = await place.info("k/modeldir.tar")
    place.files("theirs", more=size)
    with pytest.raises(LeaseLostError):
        await dead.upload()
    assert await place.info("k/modeldir.tar") == after
    place.files("successor", more=size + 1)
    assert await successor.upload()


async def test_a_cancelled_upload_leaves_nothing(place: Place):
    source = place.files("source", large=6 * PART)
    upload = place.upload("k/data.tar", source)
    task = asyncio.create_task(upload.upload())
    await asyncio.sleep(0.2)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    if task.cancelled():
        with pytest.raises(ArtifactMissingError):
            await place.fetch("k/data.tar", "back")
    client = place.server.client()
    assert not client.list_multipart_uploads(Bucket=place.bucket).get("Uploads")
    client.close()
    assert await upload.upload() or not task.cancelled(), "it can be tried again"
    assert same(source, await place.fetch("k/data.tar", "again"))


async def test_what_is_kept_is_given_only_to_whom_the_store_gives_it(place: Place):
    await place.upload("k/data.tar", place.files("source", a=1000)).upload()
    async with ArtifactCache(place.root / "cache", 1 << 30) as cache:
        for number in range(3):
            assert same(place.root / "source", await place.fetch("k/data.tar", f"back-{number}", cache=cache))
        assert sum(cache.hits.values()) == 2
        with pytest.raises(UnauthorisedError):
            await place.fetch("k/data.tar", "refused", cache=cache, secret="wrong")
        assert not (place.root / "refused").exists()


RUNNER = """
import asyncio, sys
from pathlib import Path
from studio_runner.messages.artifact import Artifact
from studio_runner.storage.access import Access
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.cache import ArtifactCache
from studio_runner.storage.registry import Stores
from studio_runner.storage.transfer import fetch

async def main():
    artifact = Artifact.model_validate_json(sys.argv[1])
    async with Stores() as stores, ArtifactCache(Path(sys.argv[2]), 1 << 30) as cache:
        store, key = stores.open(artifact.location, Access(artifact.credentials))
        print("begin", flush=True)
        await fetch(artifact, store, key, Path(sys.argv[3]), DiskBudget(None), cache=cache)
        print(sum(cache.hits.values()), flush=True)

asyncio.run(main())
"""


def runner(place: Place, name: str) -> "subprocess.Popen[str]":
    """Another process that fetches `k/data.tgz` through the same cache."""
    document = place.artifact("k/data.tgz").model_dump_json(by_alias=True)
    arguments = [document, str(place.root / "cache"), str(place.root / name)]
    return subprocess.Popen([sys.executable, "-c", RUNNER, *arguments], stdout=subprocess.PIPE, text=True)


async def test_several_processes_fetch_it_once(place: Place):
    source = place.files("source", a=4 * PART)
    await place.upload("k/data.tgz", source).upload()
    processes = [runner(place, f"back-{number}") for number in range(3)]
    outputs = [process.communicate(timeout=120)[0].split() for process in processes]
    assert sorted(outputs) == [["begin", "0"], ["begin", "1"], ["begin", "1"]]
    assert all(same(source, place.root / f"back-{number}") for number in range(3))


async def test_killed_at_any_point_it_harms_nobody(place: Place):
    source = place.files("source", a=4 * PART)
    await place.upload("k/data.tgz", source).upload()
    for number in range(6):
        process = runner(place, f"killed-{number}")
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.04 * number)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)
    async with ArtifactCache(place.root / "cache", 1 << 30) as cache:
        assert same(source, await place.fetch("k/data.tgz", "back", cache=cache))
        assert same(source, await place.fetch("k/data.tgz", "again", cache=cache))
    assert len(list((place.root / "cache").iterdir())) == 1, "left-overs"
