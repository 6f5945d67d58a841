"""What every store promises, over each of them."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import boto3
import pytest

from servers.moto import MotoSQS
from servers.seaweedfs import SeaweedS3
from studio_runner.errors import ObjectNotFoundError, PreconditionFailedError
from studio_runner.messages.artifact import AwsCredentials, Credentials, Location
from studio_runner.storage.access import Access
from studio_runner.storage.base import CHUNK, ObjectInfo, Precondition, Store
from studio_runner.storage.files import FileStore
from studio_runner.storage.registry import Stores

SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 17, 17 * CHUNK + 17]
PARTS = 20 * CHUNK
"""More than goes by one request."""


def access(key: str, secret: str) -> Access:
    return Access(Credentials(aws=AwsCredentials(access_key=key, secret_access_key=secret)))


@asynccontextmanager
async def files(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    tmp_path: Path = request.getfixturevalue("tmp_path")
    yield FileStore(tmp_path / "store")


@asynccontextmanager
async def seaweedfs(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    server: SeaweedS3 = request.getfixturevalue("s3")
    location = Location("s3", server.endpoint, request.getfixturevalue("bucket"), "any")
    async with Stores() as stores:
        yield stores.open(location, access(server.access_key, server.secret_key))[0]


@asynccontextmanager
async def moto(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    server: MotoSQS = request.getfixturevalue("sqs")
    bucket = f"bucket-{abs(hash(request.node.name)):x}"
    client = boto3.client(
        "s3", endpoint_url=server.url, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
    )
    client.create_bucket(Bucket=bucket)
    client.close()
    async with Stores() as stores:
        location = Location("s3", server.url.partition("://")[2], bucket, "any")
        yield stores.open(location, access("a", "b"))[0]


STORES = {"files": files, "seaweedfs": seaweedfs, "moto": moto}


@pytest.fixture(params=sorted(STORES))
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    opened: AbstractAsyncContextManager[Store] = STORES[request.param](request)
    async with opened as made:
        yield made


async def stream(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


async def put(store: Store, key: str, *pieces: bytes, when: Precondition | None = None) -> ObjectInfo:
    return await store.put(key, stream(pieces), when=when)


async def content(store: Store, key: str) -> bytes:
    return b"".join([piece async for piece in store.get(key)])


def same(one: ObjectInfo, other: ObjectInfo) -> bool:
    """A put is told the time by a clock that may tick between it and the object's own."""
    return dataclasses.replace(one, modified=0) == dataclasses.replace(other, modified=0) and (
        abs(one.modified - other.modified) < 5
    )


async def keys(store: Store, prefix: str = "") -> list[str]:
    """Sorted: SeaweedFS keeps the order of a tree."""
    return sorted([info.key async for info in store.list(prefix)])


@pytest.mark.parametrize("size", SIZES)
async def test_gives_back_what_was_put(store: Store, size: int):
    data = bytes(range(256)) * (size // 256 + 1)
    pieces = [data[at : min(at + 300_007, size)] for at in range(0, size, 300_007)]
    info = await put(store, "experiments/k/output.tar", *pieces)
    assert info.size == size
    assert await content(store, "experiments/k/output.tar") == data[:size]
    assert same(await store.head("experiments/k/output.tar"), info)


async def test_put_replaces(store: Store):
    first = await put(store, "a/b", b"one")
    second = await put(store, "a/b", b"two")
    assert await content(store, "a/b") == b"two"
    assert first.etag != second.etag
    assert second.modified >= first.modified


async def test_missing_objects_are_reported(store: Store):
    with pytest.raises(ObjectNotFoundError, match="nowhere/at-all"):
        await store.head("nowhere/at-all")
    with pytest.raises(ObjectNotFoundError, match="nowhere/at-all"):
        await content(store, "nowhere/at-all")


async def test_what_lies_below_a_key_is_not_its_object(store: Store):
    await put(store, "a/b/c", b"x")
    with pytest.raises(ObjectNotFoundError):
        await store.head("a/b")
    with pytest.raises(ObjectNotFoundError):
        await content(store, "a/b")
    with pytest.raises(ObjectNotFoundError):
        await store.head("a/b/c/d")


async def test_delete_removes_and_forgives(store: Store):
    await put(store, "a/b", b"x")
    await store.delete("a/b")
    await store.delete("a/b")
    await store.delete("a")
    await store.delete("a/b/c")
    assert await keys(store) == []


async def test_list_goes_by_prefix(store: Store):
    everything = ["a", "b/1", "b/2/x", "b.c", "b/2.y", "bb"]
    for key in everything:
        await put(store, key, key.encode())
    assert await keys(store) == sorted(everything)
    assert await keys(store, "b/") == ["b/1", "b/2.y", "b/2/x"]
    assert await keys(store, "b/2") == ["b/2.y", "b/2/x"]
    assert await keys(store, "b") == ["b.c", "b/1", "b/2.y", "b/2/x", "bb"]
    assert await keys(store, "c") == []
    assert await keys(store, "b/1/2/3") == []
    assert [info.size async for info in store.list("b/2/")] == [5]


async def test_list_of_an_empty_store_is_empty(store: Store):
    assert await keys(store) == []


async def test_put_if_absent(store: Store):
    first = await put(store, "a", b"one", when=Precondition(None))
    with pytest.raises(PreconditionFailedError):
        await put(store, "a", b"two", when=Precondition(None))
    assert same(await store.head("a"), first)
    assert await content(store, "a") == b"one"


async def test_put_if_unchanged(store: Store):
    first = await put(store, "a", b"one")
    second = await put(store, "a", b"two", when=Precondition(first.etag))
    with pytest.raises(PreconditionFailedError):
        await put(store, "a", b"three", when=Precondition(first.etag))
    with pytest.raises(PreconditionFailedError):
        await put(store, "b", b"three", when=Precondition(first.etag))
    assert same(await store.head("a"), second)
    assert await keys(store) == ["a"]


@pytest.mark.parametrize("etag", ["seen", "absent"])
async def test_only_one_of_many_conditional_puts_wins(store: Store, etag: str):
    seen = (await put(store, "a", b"old")).etag if etag == "seen" else None
    bodies = [bytes([number]) * 10 for number in range(16)]
    puts = [put(store, "a", body, when=Precondition(seen)) for body in bodies]
    results = await asyncio.gather(*puts, return_exceptions=True)
    winners = [body for body, result in zip(bodies, results, strict=True) if isinstance(result, ObjectInfo)]
    assert len(winners) == 1
    assert all(isinstance(result, ObjectInfo | PreconditionFailedError) for result in results)
    assert await content(store, "a") == winners[0]


@pytest.mark.parametrize("size", [10, 3 * CHUNK, PARTS])
async def test_a_stream_that_fails_leaves_the_old_object(store: Store, size: int):
    old = await put(store, "a/b", b"old")

    async def failing() -> AsyncIterator[bytes]:
        yield bytes(size)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        await store.put("a/b", failing())
    assert same(await store.head("a/b"), old)
    assert await keys(store) == ["a/b"]


@pytest.mark.parametrize("size", [10, 3 * CHUNK, PARTS])
async def test_a_cancelled_put_leaves_nothing(store: Store, size: int):
    arrived = asyncio.Event()

    async def hanging() -> AsyncIterator[bytes]:
        yield bytes(size)
        arrived.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.put("a/b", hanging()))
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await keys(store) == []


async def test_an_object_is_not_seen_before_it_is_whole(store: Store):
    await put(store, "a", b"old")
    halfway, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(3 * CHUNK)
        halfway.set()
        await go_on.wait()
        yield b"end"

    task = asyncio.create_task(store.put("a", slow()))
    await halfway.wait()
    assert await content(store, "a") == b"old"
    assert await keys(store) == ["a"]
    go_on.set()
    assert (await task).size == 3 * CHUNK + 3
    assert (await store.head("a")).size == 3 * CHUNK + 3


async def test_a_reader_keeps_the_version_it_began_with(store: Store):
    await put(store, "a", bytes(3 * CHUNK))
    reading = store.get("a")
    first = await anext(reading)
    await put(store, "a", b"new")
    rest = b"".join([piece async for piece in reading])
    assert first + rest == bytes(3 * CHUNK)


async def test_a_reader_may_leave_early(store: Store):
    await put(store, "a", bytes(3 * CHUNK))
    async for piece in store.get("a"):
        assert piece
        break
    await put(store, "a", b"new")
    assert await content(store, "a") == b"new"


@pytest.mark.parametrize("key", ["with blank/é ü/日本.tar", "%41?x#y&z=1", "a" * 200, "-rf", "~", "..."])
async def test_keys_may_hold_odd_characters(store: Store, key: str):
    await put(store, key, b"x")
    assert await content(store, key) == b"x"
    assert await keys(store) == [key]
