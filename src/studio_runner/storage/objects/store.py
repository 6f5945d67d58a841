"""A bucket of S3, of Google Cloud Storage, or of a service that speaks like them, as a `Store`."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress
from typing import Self

from studio_runner.errors import ObjectNotFoundError, PreconditionFailedError
from studio_runner.storage.base import ObjectInfo, Precondition
from studio_runner.storage.objects.answers import Page, listing
from studio_runner.storage.objects.authority import Authority
from studio_runner.storage.objects.bucket import Bucket
from studio_runner.storage.objects.client import Client
from studio_runner.storage.objects.reading import Source, reading
from studio_runner.storage.objects.requests import Ask, Requests
from studio_runner.storage.objects.retry import PassingError, persist
from studio_runner.storage.objects.versions import versions_of
from studio_runner.storage.objects.writing import Target, write


class ObjectStore:
    """A `Store` and a `Remote`. Holds no connection of its own: those are the client's."""

    def __init__(self, client: Client, bucket: Bucket, authority: Authority) -> None:
        self._requests = Requests(client, bucket, authority)
        self._versions = versions_of(bucket.dialect)

    @property
    def there(self) -> Self:
        """It is across the network (`storage.base.remote`)."""
        return self

    def __repr__(self) -> str:
        return f"ObjectStore({self._requests!r})"

    async def head(self, key: str) -> ObjectInfo:
        ask = Ask("read", "HEAD", key)
        headers, _ = await persist(self._requests.patience, lambda: self._requests.tell(ask))
        return self._versions.describe(key, headers)

    def open(self, key: str) -> AbstractAsyncContextManager[tuple[ObjectInfo, AsyncIterator[bytes]]]:
        source = Source(
            ask=lambda headers: self._requests.ask(Ask("read", "GET", key, headers=headers)),
            describe=lambda reply: self._versions.describe(key, reply.headers),
            pinned=self._versions.pinned,
        )
        return reading(source, self._requests.patience)

    async def get(self, key: str) -> AsyncGenerator[bytes, None]:
        async with self.open(key) as (_, pieces):
            async for piece in pieces:
                yield piece

    async def read_range(self, key: str, start: int, end: int, etag: str) -> bytes:
        headers = {"range": f"bytes={start}-{end - 1}", **self._versions.pinned(etag)}
        ask = Ask("read", "GET", key, headers=headers)
        return await persist(self._requests.patience, lambda: self._range(ask, start, end, etag))

    async def put(self, key: str, stream: AsyncIterator[bytes], *, when: Precondition | None = None) -> ObjectInfo:
        return await write(Target(self._requests, self._versions, key, when), stream)

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        token: str | None = ""
        while token is not None:
            page = await self._page(prefix, token)
            for entry in page.entries:
                yield entry
            token = page.next

    async def delete(self, key: str) -> None:
        ask = Ask("delete", "DELETE", key)
        with suppress(ObjectNotFoundError):
            await persist(self._requests.patience, lambda: self._requests.tell(ask))

    async def _range(self, ask: Ask, start: int, end: int, etag: str) -> bytes:
        async with self._requests.ask(ask) as reply:
            if etag and self._versions.etag(reply.headers) not in {"", etag}:  # it heeds no condition
                raise PreconditionFailedError(f"{self._requests.address(ask.key)} is another version now")
            if reply.status == 206:
                body = await reply.first(end - start)
            else:
                body = await reply.part(start, end)
        if len(body) != end - start:
            raise PassingError(
                f"{self._requests.address(ask.key)}: {len(body):,} bytes came of the {end - start:,} asked for"
            )
        return body

    async def _page(self, prefix: str, token: str) -> Page:
        query = [("list-type", "2"), ("encoding-type", "url"), ("prefix", prefix)]
        if token:
            query.append(("continuation-token", token))
        ask = Ask("list", "GET", query=tuple(query))
        _, body = await persist(self._requests.patience, lambda: self._requests.tell(ask))
        return listing(body)
