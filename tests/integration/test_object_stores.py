"""Stores across the network on bad days: an S3 server, and a front before it that spoils what it is told to."""

import asyncio
import base64
import io
import json
import os
import socket
import ssl
import subprocess
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import pytest
from aiohttp import web
from yarl import URL

from servers.seaweedfs import SeaweedS3
from studio_runner.config.settings import StorageSettings
from studio_runner.errors import (
    ArtifactInvalidError,
    ArtifactMissingError,
    ConfigError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StorageUnavailableError,
    UnauthorisedError,
)
from studio_runner.messages.artifact import (
    Artifact,
    AwsCredentials,
    Credentials,
    JwtCredentials,
    Location,
    PlainCredentials,
)
from studio_runner.storage.access import Access
from studio_runner.storage.base import CHUNK, ObjectInfo, Precondition, Store, remote
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.fetch import fetch
from studio_runner.storage.objects.bucket import Bucket
from studio_runner.storage.objects.client import Call, Client
from studio_runner.storage.objects.google import OwnToken
from studio_runner.storage.objects.signing import Unsigned
from studio_runner.storage.registry import Stores

SECRET = "testsecret"
BIG = 20 * CHUNK
SLOW_DOWN = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Front:
    """Passes requests on to a server. `spoil` names what becomes of the next ones: `pass`, `503`, `reset` (before
    anything is passed on), `lost` (the work is done, its answer is not sent), `half` (of the body), `hang`."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.spoil: list[str] = []
        self.seen: list[tuple[str, str, dict[str, str]]] = []

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        async with aiohttp.ClientSession(auto_decompress=False) as self._session:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
            await site.start()
            try:
                yield f"127.0.0.1:{runner.addresses[0][1]}"
            finally:
                await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append((request.method, request.raw_path, dict(request.headers)))
        what = self.spoil.pop(0) if self.spoil else "pass"
        if what == "hang":
            await asyncio.sleep(60)
        if what == "503":
            return web.Response(status=503, text=SLOW_DOWN)
        if what != "reset":
            status, headers, content = await self._pass(request, body)
        if what in {"reset", "lost"}:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        if request.method != "HEAD":
            await response.write(content[: len(content) // 2] if what == "half" else content)
        if what == "half":
            assert request.transport is not None
            await asyncio.sleep(0.05)
            request.transport.close()
        return response

    async def _pass(self, request: web.Request, body: bytes) -> tuple[int, dict[str, str], bytes]:
        url = URL(f"{self._target}{request.raw_path}", encoded=True)
        headers = {name: value for name, value in request.headers.items() if name.lower() != "transfer-encoding"}
        async with self._session.request(request.method, url, headers=headers, data=io.BytesIO(body)) as answer:
            kept = {
                name: value
                for name, value in answer.headers.items()
                if name.lower() not in {"transfer-encoding", "connection", "server"}
            }
            return answer.status, kept, await answer.read()


@pytest.fixture
async def front(s3: SeaweedS3) -> AsyncIterator[Front]:
    made = Front(s3.url)
    async with made.running() as address:
        made.address = address  # type: ignore[attr-defined]
        yield made


def keys(key: str = "testkey", secret: str = SECRET, **more: str) -> Access:
    return Access(Credentials(aws=AwsCredentials(access_key=key, secret_access_key=secret, **more)))


@asynccontextmanager
async def opened(host: str, bucket: str, access: Access | None = None, **settings: Any) -> AsyncIterator[Store]:
    async with Stores(StorageSettings(**{"patience": 60.0, **settings})) as stores:
        yield stores.open(Location("s3", host, bucket, "any"), access or keys())[0]


async def stream(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def put(store: Store, key: str, *pieces: bytes, when: Precondition | None = None) -> ObjectInfo:
    return await store.put(key, stream(pieces), when=when)


async def content(store: Store, key: str) -> bytes:
    return b"".join([piece async for piece in store.get(key)])


def uploads(s3: SeaweedS3, bucket: str) -> list[Any]:
    """The multipart uploads that are neither complete nor aborted."""
    client = boto3.client(
        "s3", endpoint_url=s3.url, aws_access_key_id=s3.access_key, aws_secret_access_key=s3.secret_key,
        region_name="us-east-1",
    )  # fmt: skip
    try:
        found: list[Any] = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    finally:
        client.close()
    return found


# What passes


@pytest.mark.parametrize("spoil", ["503", "reset", "hang"])
async def test_what_passes_is_tried_again(front: Front, bucket: str, spoil: str):
    async with opened(front.address, bucket, patience=10.0 if spoil == "hang" else 60.0) as store:
        front.spoil = [spoil, spoil] if spoil != "hang" else []
        await put(store, "a", b"one")
        front.spoil = [spoil]
        assert (await store.head("a")).size == 3
        front.spoil = [spoil]
        assert await content(store, "a") == b"one"
        front.spoil = [spoil]
        assert [info.key async for info in store.list()] == ["a"]
        front.spoil = [spoil]
        await store.delete("a")
        with pytest.raises(ObjectNotFoundError):
            await store.head("a")


async def test_patience_ends(front: Front, bucket: str):
    front.spoil = ["503"] * 100
    async with opened(front.address, bucket, patience=5.0) as store:
        with pytest.raises(
            StorageUnavailableError, match=rf"{front.address} refuses for now \(SlowDown.*tried \d times"
        ):
            await content(store, "a")
    assert 2 < len(front.seen) < 20


async def test_a_broken_download_goes_on_where_it_broke(front: Front, bucket: str):
    data = os.urandom(4 * CHUNK + 5)
    async with opened(front.address, bucket) as store:
        etag = (await put(store, "a", data)).etag
        front.seen.clear()
        front.spoil = ["half", "half", "503"]
        assert await content(store, "a") == data
    ranges = [headers.get("Range") for _, _, headers in front.seen]
    assert ranges[0] is None
    assert ranges[1] == f"bytes={len(data) // 2}-"
    assert front.seen[1][2]["If-Match"] == f'"{etag}"'


async def test_a_download_never_mixes_two_versions(front: Front, bucket: str):
    async with opened(front.address, bucket) as store:
        await put(store, "a", b"1" * (4 * CHUNK))
        front.spoil = ["half"]
        pieces = store.get("a")
        await anext(pieces)
        await put(store, "a", b"2" * (4 * CHUNK))
        with pytest.raises(StorageUnavailableError, match="replaced while it was read"):
            _ = [piece async for piece in pieces]


async def test_ranges_are_of_the_version_that_was_seen(front: Front, bucket: str):
    async with opened(front.address, bucket) as store:
        there = remote(store)
        assert there is not None
        etag = (await put(store, "a", bytes(range(200)))).etag
        front.spoil = ["half"]
        assert await there.read_range("a", 10, 30, etag) == bytes(range(10, 30))
        await put(store, "a", b"new")
        with pytest.raises(PreconditionFailedError):
            await there.read_range("a", 10, 30, etag)


async def test_one_request_tells_an_object_and_its_bytes(front: Front, bucket: str):
    async with opened(front.address, bucket) as store:
        there = remote(store)
        assert there is not None
        written = await put(store, "a", b"bytes")
        front.seen.clear()
        async with there.open("a") as (info, pieces):
            assert (info.size, info.etag) == (5, written.etag)
            assert b"".join([piece async for piece in pieces]) == b"bytes"
    assert len(front.seen) == 1


@pytest.mark.parametrize("size", [10, BIG])
@pytest.mark.parametrize("when", ["absent", "seen"])
async def test_a_conditional_put_whose_answer_was_lost_is_still_ours(
    front: Front, bucket: str, size: int, when: str
):
    async with opened(front.address, bucket) as store:
        seen = (await put(store, "a", b"old")).etag if when == "seen" else None
        # One request, or: begin, three parts, a look, the completion.
        front.spoil = ["lost"] if size < BIG else ["pass"] * 5 + ["lost"]
        data = os.urandom(size)
        info = await put(store, "a", data, when=Precondition(seen))
        assert (await store.head("a")).etag == info.etag
        assert await content(store, "a") == data


async def test_an_upload_in_parts_survives_trouble(front: Front, s3: SeaweedS3, bucket: str):
    data = os.urandom(BIG + 7)
    async with opened(front.address, bucket) as store:
        front.spoil = ["503", "pass", "reset", "lost", "503", "pass", "pass", "lost", "503"]
        info = await put(store, "a", data[:7], data[7:])
        assert info.size == len(data)
        assert await content(store, "a") == data
    assert uploads(s3, bucket) == []


# What is given up


@pytest.mark.parametrize("end", ["cancelled", "source", "store"])
async def test_an_upload_that_is_given_up_leaves_no_parts(front: Front, s3: SeaweedS3, bucket: str, end: str):
    arrived = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        yield bytes(BIG)
        arrived.set()
        if end == "source":
            raise RuntimeError("the source broke")
        if end == "store":
            front.spoil = ["503"] * 1000
        yield bytes(BIG)
        await asyncio.sleep(60)

    async with opened(front.address, bucket, patience=5.0 if end == "store" else 60.0) as store:
        task = asyncio.create_task(store.put("a", source()))
        await arrived.wait()
        if end == "cancelled":
            task.cancel()
        errors = {"cancelled": asyncio.CancelledError, "source": RuntimeError, "store": StorageUnavailableError}
        aborted = asyncio.create_task(_let_aborts_pass(front))
        with pytest.raises(errors[end]):
            await task
        aborted.cancel()
        with pytest.raises(ObjectNotFoundError):
            await store.head("a")
    assert uploads(s3, bucket) == []


async def _let_aborts_pass(front: Front) -> None:
    while not any(method == "DELETE" for method, _, _ in front.seen):
        await asyncio.sleep(0.01)
    front.spoil = []


# What is final


def tries(front: Front, method: str) -> int:
    return [seen[0] for seen in front.seen].count(method)


async def test_a_wrong_key_and_a_wrong_secret_are_told_apart(front: Front, bucket: str):
    async with opened(front.address, bucket, keys("AKIAWRONGKEY", "hushhush")) as store:
        with pytest.raises(
            UnauthorisedError, match=rf"{front.address} does not know access key AKIA\.\.\."
        ) as error:
            await put(store, "a", b"x")
        assert tries(front, "PUT") == 1
        assert "WRONGKEY" not in str(error.value)
    async with opened(front.address, bucket, keys("testkey", "hushhush")) as store:
        for work in (store.head("a"), content(store, "a"), put(store, "a", b"x"), put(store, "a", bytes(BIG))):
            with pytest.raises(UnauthorisedError, match=r"the secret of access key test\.\.\.") as error:
                await work
            assert "hushhush" not in str(error.value)
            assert SECRET not in str(error.value)


async def test_without_credentials_the_message_asks_for_them(s3: SeaweedS3, bucket: str):
    for nobody in (Access(), keys("", "")):
        async with opened(s3.endpoint, bucket, nobody) as store:
            with pytest.raises(UnauthorisedError, match="without credentials") as error:
                await store.head("a")
            assert "credentials" in (error.value.hint or "")


async def test_a_missing_bucket_is_named_and_not_tried_again(front: Front):
    async with opened(front.address, "nowhere") as store:
        for work in (store.head("a"), content(store, "a"), _listed(store)):
            front.seen.clear()
            with pytest.raises(
                ArtifactMissingError, match=f"bucket nowhere does not exist on http://{front.address}"
            ):
                await work
            assert len(front.seen) <= 2


async def _listed(store: Store) -> list[str]:
    return [info.key async for info in store.list()]


async def test_the_bucket_is_looked_for_once(front: Front, bucket: str):
    async with opened(front.address, bucket) as store:
        for _ in range(3):
            with pytest.raises(ObjectNotFoundError):
                await store.head("a")
    assert len(front.seen) == 4


async def test_a_wrong_clock_is_named_and_allowed_for(
    s3: SeaweedS3, bucket: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 7200)
    async with opened(s3.endpoint, bucket) as store:
        await put(store, "a", b"x")
        assert (await store.head("a")).size == 1
        assert (await store.head("a")).modified == pytest.approx(real(), abs=10)
    said = [record.message for record in caplog.records if "clock" in record.message]
    assert len(said) == 1
    assert "7200 s ahead of" in said[0] or "7199 s ahead of" in said[0] or "7201 s ahead of" in said[0]


async def test_an_unknown_host_is_named_at_once():
    async with opened("no-such-host.invalid:9000", "bucket", patience=60) as store:
        began = time.monotonic()
        with pytest.raises(
            StorageUnavailableError, match=r"no address is known for the host no-such-host\.invalid"
        ):
            await store.head("a")
        assert time.monotonic() - began < 50


async def test_nobody_listening_is_tried_again_and_then_said():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        async with opened(f"127.0.0.1:{port}", "bucket", patience=3.0) as store:
            with pytest.raises(StorageUnavailableError, match=rf"127\.0\.0\.1:{port}.*[Cc]onne.*tried \d times"):
                await store.head("a")


async def test_a_store_that_begins_to_listen_is_found(front: Front, s3: SeaweedS3, bucket: str):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    async with opened(f"127.0.0.1:{port}", bucket, patience=60) as store:
        put_task = asyncio.create_task(put(store, "a", b"x"))
        await asyncio.sleep(0.3)
        late = Front(s3.url)
        async with aiohttp.ClientSession() as late._session:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", late._handle)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            assert (await put_task).size == 1
            await runner.cleanup()


# TLS


@pytest.fixture
async def tls_front(s3: SeaweedS3, certificates: Path) -> AsyncIterator[str]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    async with Front(s3.url).running(context) as address:
        yield address


async def test_an_authority_of_ones_own(tls_front: str, bucket: str, certificates: Path):
    async with opened(tls_front, bucket, scheme="https", ca=certificates / "ca.pem") as store:
        data = os.urandom(BIG)
        await put(store, "a", data)
        assert await content(store, "a") == data


async def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(tls_front: str, bucket: str):
    async with opened(tls_front, bucket, scheme="https") as store:
        with pytest.raises(StorageUnavailableError, match=r"certificate is not to be trusted") as error:
            await store.head("a")
        assert "s3-ca" in (error.value.hint or "")


async def test_tls_to_a_plain_port_and_the_other_way_round(s3: SeaweedS3, tls_front: str, bucket: str):
    async with opened(s3.endpoint, bucket, scheme="https", patience=1.0) as store:
        with pytest.raises(StorageUnavailableError, match="no TLS connection"):
            await store.head("a")
    async with opened(tls_front, bucket, scheme="http", patience=1.0) as store:
        with pytest.raises(StorageUnavailableError):
            await store.head("a")


async def test_a_certificate_of_the_client(s3: SeaweedS3, bucket: str, certificates: Path):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    own = {"cert": certificates / "client.pem", "key": certificates / "client.key"}
    async with Front(s3.url).running(context) as address:
        async with opened(address, bucket, scheme="https", ca=certificates / "ca.pem", **own) as store:
            assert (await put(store, "a", b"x")).size == 1
        async with opened(address, bucket, scheme="https", ca=certificates / "ca.pem", patience=1.0) as store:
            with pytest.raises(StorageUnavailableError):
                await store.head("a")


async def test_a_file_that_is_no_certificate_is_a_matter_of_configuration(tmp_path: Path):
    (tmp_path / "ca.pem").write_text("no certificate")
    for settings in ({"ca": tmp_path / "ca.pem"}, {"ca": tmp_path / "none"}, {"key": tmp_path / "ca.pem"}):
        async with opened("127.0.0.1:1", "bucket", scheme="https", **settings) as store:
            with pytest.raises(ConfigError, match="s3-"):
                await store.head("a")


# Web servers


@asynccontextmanager
async def web_store(url: str, credentials: Credentials | None = None) -> AsyncIterator[tuple[Store, str]]:
    async with Stores(StorageSettings(patience=60.0)) as stores:
        yield stores.open(Location.parse(url), Access(credentials))


def presigned(s3: SeaweedS3, bucket: str, key: str) -> str:
    client = boto3.client(
        "s3", endpoint_url=s3.url, aws_access_key_id=s3.access_key, aws_secret_access_key=s3.secret_key,
        region_name="us-east-1",
    )  # fmt: skip
    try:
        return str(client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key}))
    finally:
        client.close()


async def test_presigned_addresses_are_read(s3: SeaweedS3, bucket: str):
    data = os.urandom(3 * CHUNK)
    async with opened(s3.endpoint, bucket) as store:
        written = await put(store, "with blank/a+b.tar", data)
    async with web_store(presigned(s3, bucket, "with blank/a+b.tar")) as (store, key):
        assert (await store.head(key)).size == len(data)
        assert await content(store, key) == data
        there = remote(store)
        assert there is not None
        etag = (await store.head(key)).etag
        assert written.etag in etag
        assert await there.read_range(key, 5, 50, etag) == data[5:50]


async def test_what_a_presigned_address_permits_is_not_shown(s3: SeaweedS3, bucket: str):
    url = presigned(s3, bucket, "a")
    async with web_store(url) as (store, key):
        with pytest.raises(ObjectNotFoundError) as error:
            await store.head(key)
        assert "Signature" not in str(error.value)
    async with web_store(url[:-4] + "0000") as (store, key):
        with pytest.raises(UnauthorisedError) as error:
            await store.head(key)
        assert "Signature=" not in str(error.value)


async def test_web_addresses_are_for_reading(s3: SeaweedS3, bucket: str):
    async with web_store(presigned(s3, bucket, "a")) as (store, key):
        for work in (put(store, key, b"x"), store.delete(key), _listed(store)):
            with pytest.raises(ArtifactInvalidError, match="web addresses are for reading") as error:
                await work
            assert "Signature" not in str(error.value)


@asynccontextmanager
async def answering(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """The host and port of a web server on this machine."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def plain_server() -> AsyncIterator[str]:
    """Knows no ranges and no etags; wants a password below /private; moved some of it."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/moved":
            raise web.HTTPFound("/data?x=1&y=%2F")
        wanted = {"Basic dXNlcjpwYXNzd29yZA==", "Bearer a-token"}
        if request.path == "/private" and request.headers.get("authorization") not in wanted:
            raise web.HTTPUnauthorized
        if request.path == "/gone":
            raise web.HTTPNotFound
        response = web.StreamResponse()
        if request.path == "/unsized":
            response.enable_chunked_encoding()
        else:
            response.content_length = 1000
        await response.prepare(request)
        await response.write(b"x" * 1000)
        return response

    async with answering(answer) as address:
        yield f"http://{address}"


@pytest.mark.parametrize("path", ["data", "moved", "unsized"])
async def test_simple_web_servers_do(path: str):
    async with plain_server() as server, web_store(f"{server}/{path}") as (store, key):
        info = await store.head(key)
        assert info.size == (-1 if path == "unsized" else 1000)
        assert await content(store, key) == b"x" * 1000
        there = remote(store)
        assert there is not None
        assert await there.read_range(key, 10, 20, info.etag) == b"x" * 10


@asynccontextmanager
async def endless_server(asked: list[str | None]) -> AsyncIterator[str]:
    """Has a file of 96 MiB and an etag, and sends all of it, whatever range is asked for."""

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("range"))
        response = web.StreamResponse(headers={"etag": '"x"', "content-length": str(96 << 20)})
        await response.prepare(request)
        with suppress(ConnectionError):
            for _ in range(96):
                await response.write(bytes(1 << 20))
        return response

    async with answering(answer) as address:
        yield f"http://{address}"


async def test_a_server_that_knows_no_ranges_is_asked_once(tmp_path: Path):
    """Asked for every part by itself it would send the whole file for each."""
    asked: list[str | None] = []
    async with endless_server(asked) as server, web_store(f"{server}/file.bin") as (store, key):
        artifact = Artifact(qualified=f"{server}/file.bin", mutable=False, unpack=False)
        await fetch(artifact, store, key, tmp_path, DiskBudget(None))
    assert asked == [None]
    assert (tmp_path / "file.bin").stat().st_size == 96 << 20


async def test_what_stands_before_a_range_is_not_kept():
    async with endless_server([]) as server, web_store(f"{server}/file.bin") as (store, key):
        there = remote(store)
        assert there is not None
        tracemalloc.start()
        try:
            assert await there.read_range(key, 95 << 20, (95 << 20) + 10, '"x"') == bytes(10)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert most < 48 << 20


async def test_passwords_and_tokens_of_web_servers():
    password = Credentials(plain=PlainCredentials(user="user", password="password"))
    token = Credentials(jwt=JwtCredentials(token="a-token"))
    async with plain_server() as server:
        for credentials in (password, token):
            async with web_store(f"{server}/private", credentials) as (store, key):
                assert len(await content(store, key)) == 1000
        async with web_store(f"{server}/private") as (store, key):
            with pytest.raises(UnauthorisedError, match="without credentials"):
                await content(store, key)
        async with web_store(f"{server}/gone") as (store, key):
            with pytest.raises(ObjectNotFoundError, match="/gone"):
                await store.head(key)


# Regions


async def test_the_region_that_a_refusal_names_is_taken(s3: SeaweedS3, bucket: str):
    """A store in another region than us-east-1 says so; it is asked again there, and from then on at once."""
    refused = []

    class Regional(Front):
        async def _handle(self, request: web.Request) -> web.StreamResponse:
            if "/eu-west-1/" not in request.headers["authorization"]:
                refused.append(request.method)
                body = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>"
                return web.Response(status=400, text=body)
            return await super()._handle(request)

    async with Regional(s3.url).running() as address, opened(address, bucket) as store:
        with pytest.raises(ObjectNotFoundError):
            await store.head("a")
        assert (await put(store, "a", b"x")).size == 1
        assert await content(store, "a") == b"x"
    assert refused == ["HEAD", "GET"]  # a HEAD has no words for it


# The runner's own credentials


async def test_the_runner_lends_its_own_keys_only_where_it_may(
    s3: SeaweedS3, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    async with opened(s3.endpoint, bucket, Access(), allow_env_secrets=True) as store:
        assert (await put(store, "a", b"x")).size == 1
    async with opened(s3.endpoint, bucket, Access()) as store:
        with pytest.raises(UnauthorisedError, match="without credentials"):
            await store.head("a")
    async with opened(s3.endpoint, bucket, keys("", ""), allow_env_secrets=True) as store:  # nobody was asked for
        with pytest.raises(UnauthorisedError, match="without credentials"):
            await store.head("a")


async def test_the_environment_does_not_leak_into_what_a_message_says(
    s3: SeaweedS3, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    """Other libraries mix a message's keys with the session token, region and endpoint of the process."""
    for name in ("AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with opened(s3.endpoint, bucket) as store:
        assert (await put(store, "a", b"x")).size == 1


@asynccontextmanager
async def account_server(answers: list[dict[str, str]]) -> AsyncIterator[str]:
    """Gives tokens as Google's do, and notes what it was asked."""

    async def answer(request: web.Request) -> web.Response:
        answers.append(
            {**dict(request.headers), **{name: str(value) for name, value in (await request.post()).items()}}
        )
        return web.json_response({"access_token": f"token-{len(answers)}", "expires_in": 3600})

    async with answering(answer) as address:
        yield address


@pytest.mark.parametrize("kind", ["service_account", "authorized_user", "metadata"])
async def test_the_runners_own_google_account(kind: str, tmp_path: Path, certificates: Path):
    asked: list[dict[str, str]] = []
    bucket = Bucket.at("https", "storage.googleapis.com", "bucket", None)
    request = Unsigned("GET", bucket.netloc, "/", "", {"range": "bytes=0-0"}, "")
    async with account_server(asked) as server:
        client = Client(StorageSettings(patience=60.0))
        environment = {"HOME": str(tmp_path), "GCE_METADATA_HOST": server}
        if kind != "metadata":
            account = {
                "type": kind, "token_uri": f"http://{server}/token", "client_email": "runner@project",
                "private_key": (certificates / "ca.key").read_text(), "client_id": "id", "client_secret": "hush",
                "refresh_token": "again",
            }  # fmt: skip
            (tmp_path / "account.json").write_text(json.dumps(account))
            environment["GOOGLE_APPLICATION_CREDENTIALS"] = str(tmp_path / "account.json")
        token = OwnToken(client, environment)
        for _ in range(3):
            headers = await token.headers(request, bucket, 0.0)
            assert headers == {"range": "bytes=0-0", "authorization": "Bearer token-1"}
        await client.close()
    (said,) = asked
    if kind == "service_account":
        head, claims, _ = said["assertion"].split(".")
        assert json.loads(base64.urlsafe_b64decode(head + "=="))["alg"] == "RS256"
        assert json.loads(base64.urlsafe_b64decode(claims + "=="))["iss"] == "runner@project"
        _verify(said["assertion"], certificates)
    elif kind == "authorized_user":
        assert said["refresh_token"] == "again"
    else:
        assert said["metadata-flavor"] == "Google"


def _verify(assertion: str, certificates: Path) -> None:
    """By OpenSSL, with the public half of the key."""
    signed, _, signature = assertion.rpartition(".")
    (certificates / "signature").write_bytes(base64.urlsafe_b64decode(signature + "=="))
    (certificates / "signed").write_text(signed)
    for command in (
        ["rsa", "-in", "ca.key", "-pubout", "-out", "ca.pub"],
        ["dgst", "-sha256", "-verify", "ca.pub", "-signature", "signature", "signed"],
    ):
        subprocess.run(["openssl", *command], cwd=certificates, check=True, capture_output=True, timeout=60)


async def test_google_credentials_that_are_none(tmp_path: Path):
    bucket = Bucket.at("https", "storage.googleapis.com", "bucket", None)
    request = Unsigned("GET", bucket.netloc, "/", "", {}, "")
    path = tmp_path / "account.json"
    client = Client(StorageSettings())
    for text in ("", "[]", '{"type": "external_account"}', '{"type": "service_account"}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match="account\\.json"):
            await OwnToken(client, {"GOOGLE_APPLICATION_CREDENTIALS": str(path)}).headers(request, bucket, 0.0)


@pytest.mark.parametrize("token", ["x\r\nX-Injected: 1", "\u0000"])
async def test_a_line_break_in_credentials_is_the_senders_mistake(s3: SeaweedS3, token: str):
    client = Client(StorageSettings(patience=1.0))
    with pytest.raises(ArtifactInvalidError, match="cannot be asked"):
        async with client.send(Call("GET", f"{s3.url}/k", {"authorization": f"Bearer {token}"})):
            pass
    await client.close()
