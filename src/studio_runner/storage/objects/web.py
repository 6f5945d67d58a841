"""Objects on web servers, to be read only: plain addresses and presigned ones."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NoReturn, Self

from studio_runner.errors import ArtifactInvalidError, PreconditionFailedError
from studio_runner.messages.secrets import mask_urls
from studio_runner.storage.base import ObjectInfo, Precondition
from studio_runner.storage.objects.answers import About, Refusal, fault, http_date
from studio_runner.storage.objects.client import Call, Client, Reply
from studio_runner.storage.objects.reading import Source, reading
from studio_runner.storage.objects.retry import PassingError, persist
from studio_runner.storage.objects.signing import encode_path
from studio_runner.storage.objects.versions import size_of

_REDIRECTS = 10
_ENCODED = "/~%!$&'()*+,;=:@"


class WebStore:
    """A `Store` and a `Remote` over one server; keys are paths with their queries.

    `authorization` is the header of that name, and goes to this server alone.
    """

    def __init__(self, client: Client, origin: str, authorization: str = "") -> None:
        self._client = client
        self._origin = origin
        self._headers = {"authorization": authorization} if authorization else {}

    @property
    def there(self) -> Self:
        """It is across the network (`storage.base.remote`)."""
        return self

    def __repr__(self) -> str:
        return f"WebStore({self._origin!r})"

    async def head(self, key: str) -> ObjectInfo:
        """By a GET of the first byte: what is signed for a GET is refused to a HEAD."""
        return await persist(self._client.patience, lambda: self._look(key))

    def open(self, key: str) -> AbstractAsyncContextManager[tuple[ObjectInfo, AsyncIterator[bytes]]]:
        source = Source(
            ask=lambda headers: self._ask(key, headers),
            describe=lambda reply: _described(key, reply),
            pinned=_pinned,
        )
        return reading(source, self._client.patience)

    async def get(self, key: str) -> AsyncGenerator[bytes, None]:
        async with self.open(key) as (_, pieces):
            async for piece in pieces:
                yield piece

    async def read_range(self, key: str, start: int, end: int, etag: str) -> bytes:
        headers = {"range": f"bytes={start}-{end - 1}", **_pinned(etag)}
        return await persist(self._client.patience, lambda: self._range(key, headers, slice(start, end), etag))

    async def put(
        self,
        key: str,
        stream: AsyncIterator[bytes],  # noqa: ARG002
        *,
        when: Precondition | None = None,  # noqa: ARG002
    ) -> ObjectInfo:
        self._refuse(key, "written")

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        self._refuse(prefix, "listed")
        yield  # type: ignore[unreachable]  # it is an iterator all the same

    async def delete(self, key: str) -> None:
        self._refuse(key, "removed")

    @asynccontextmanager
    async def _ask(self, key: str, headers: Mapping[str, str]) -> AsyncIterator[Reply]:
        call = Call("GET", self._url(key), {**self._headers, **headers}, follow=_REDIRECTS)
        async with self._client.send(call) as reply:
            if reply.status >= 300 and not _empty(reply):
                refusal = Refusal.read(reply.status, reply.headers, await reply.beginning())
                raise fault(refusal, self._about(key))
            yield reply

    async def _look(self, key: str) -> ObjectInfo:
        async with self._ask(key, {"range": "bytes=0-0"}) as reply:
            return _described(key, reply)

    async def _range(self, key: str, headers: Mapping[str, str], wanted: slice, etag: str) -> bytes:
        async with self._ask(key, headers) as reply:
            if etag and _described(key, reply).etag != etag:  # it heeds no condition
                raise PreconditionFailedError(f"{self._address(key)} is another version now")
            if reply.status == 206:
                body = await reply.first(wanted.stop - wanted.start)
            else:
                body = await reply.part(wanted.start, wanted.stop)
        if len(body) != wanted.stop - wanted.start:
            raise PassingError(f"{self._address(key)}: the answer ended before its end")
        return body

    def _refuse(self, key: str, verb: str) -> NoReturn:
        raise ArtifactInvalidError(
            f"{self._address(key)} cannot be {verb}: web addresses are for reading",
            hint="make the artifact immutable, or keep it in s3:// or gs://",
        )

    def _url(self, key: str) -> str:
        path, mark, query = key.partition("?")
        return f"{self._origin}/{encode_path(path, _ENCODED)}{mark}{encode_path(query, _ENCODED + '/?')}"

    def _address(self, key: str) -> str:
        return mask_urls(f"{self._origin}/{key}")

    def _about(self, key: str) -> About:
        who = "the credentials given" if self._headers or "?" in key else ""
        return About(self._origin, "", self._address(key), who, "read")


def _empty(reply: Reply) -> bool:
    """Whether it is only the range that cannot be had: the object is there and has no first byte."""
    return reply.status == 416 and size_of(reply.headers) == 0


def _described(key: str, reply: Reply) -> ObjectInfo:
    """Where the server gives no etag, time and size stand for it."""
    headers = reply.headers
    size = size_of(headers)
    modified = headers.get("last-modified", "")
    etag = headers.get("etag", "").strip() or f"{modified or 'unknown'}/{size}"
    in_parts = reply.status == 206 or headers.get("accept-ranges", "").strip().lower() == "bytes"
    return ObjectInfo(key, size, etag, http_date(modified), in_parts)


def _pinned(etag: str) -> dict[str, str]:
    """Weak tags and our own stand-ins are compared by what comes, as If-Match takes strong ones alone."""
    return {"if-match": etag} if etag.startswith('"') else {}
