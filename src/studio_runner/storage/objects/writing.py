"""Streams on their way into objects: small ones by one request, others in parts that go side by side."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from secrets import token_hex
from xml.sax.saxutils import escape

from studio_runner.errors import (
    ObjectNotFoundError,
    PreconditionFailedError,
    StorageUnavailableError,
    StudioRunnerError,
)
from studio_runner.storage.base import ObjectInfo, Precondition
from studio_runner.storage.objects.answers import (
    NotSupportedError,
    Refusal,
    field_of,
    http_date,
    plain_etag,
    refused,
)
from studio_runner.storage.objects.requests import Ask, Requests
from studio_runner.storage.objects.retry import persist
from studio_runner.storage.objects.versions import Versions

PART = 8 << 20
"""Bytes of a part, and of the largest object that goes by one request."""
_LATER_PART = 128 << 20
_LATER = 5000
"""Parts before they grow: a service takes 10,000 at most, and some want all of one size."""
_SIDE_BY_SIDE = 4
_COMPLETION = 600.0
_ABORT = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """The object to be written, `when` that is allowed. `mark` tells this put from every other."""

    requests: Requests
    versions: Versions
    key: str
    when: Precondition | None
    mark: str = field(default_factory=partial(token_hex, 8))

    @property
    def marked(self) -> dict[str, str]:
        return {self.versions.mark: self.mark}


async def write(target: Target, stream: AsyncIterator[bytes]) -> ObjectInfo:
    """Errors are those of `Store.put`."""
    async with aclosing(_parts(stream)) as parts:
        first = await anext(parts, b"")
        if len(first) < PART:
            return await _put(target, first)
        return await _Multipart(target).write(first, parts)


async def _parts(stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The stream again, in pieces of the size of a part."""
    held: list[bytes] = []
    size, count = 0, 0
    async for piece in stream:
        rest = piece
        wanted = PART if count < _LATER else _LATER_PART
        while size + len(rest) >= wanted:
            held.append(rest[: wanted - size])
            rest = rest[wanted - size :]
            yield b"".join(held)
            held, size, count = [], 0, count + 1
            wanted = PART if count < _LATER else _LATER_PART
        if rest:
            held.append(rest)
            size += len(rest)
    if held:
        yield b"".join(held)


async def _put(target: Target, body: bytes) -> ObjectInfo:
    """By one request."""
    when = target.when
    headers = {**target.versions.condition(when), **(target.marked if when else {})}
    ask = Ask("write", "PUT", target.key, headers=headers, body=body)
    try:
        said, _ = await persist(target.requests.patience, lambda: target.requests.tell(ask))
    except PreconditionFailedError:
        return await _ours(target)
    except NotSupportedError:
        if when is None:
            raise
        await _check(target)
        return await _put(replace(target, when=None), body)
    except ObjectNotFoundError as error:
        if when and when.etag:  # the version that was to be replaced is gone
            raise mismatch(target) from error
        raise
    return ObjectInfo(target.key, len(body), target.versions.etag(said), http_date(said.get("date", "")))


async def _ours(target: Target) -> ObjectInfo:
    """The object, if it is what this put wrote: the answer to the try that did it was lost."""
    try:
        said = await _head(target)
    except ObjectNotFoundError as error:
        raise mismatch(target) from error
    if said.get(target.versions.mark) != target.mark:
        raise mismatch(target)
    return target.versions.describe(target.key, said)


class _Multipart:
    """An upload in parts. Whatever ends it before it is complete takes its parts away again."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._requests = target.requests
        self._upload = ""
        self._etags: dict[int, str] = {}
        self._count = 0
        self._size = 0
        self._room = asyncio.Semaphore(_SIDE_BY_SIDE)

    async def write(self, first: bytes, rest: AsyncIterator[bytes]) -> ObjectInfo:
        self._upload = await self._begin()
        try:
            await self._send_all(first, rest)
            await _check(self._target)  # some services know no condition at the completion
            return await self._complete()
        except BaseException:
            await self._abort()
            raise

    async def _begin(self) -> str:
        ask = Ask("write", "POST", self._target.key, (("uploads", ""),), self._target.marked)
        _, body = await persist(self._requests.patience, lambda: self._requests.tell(ask))
        upload = field_of(body, "UploadId")
        if not upload:
            raise StorageUnavailableError(f"{self._requests}: no multipart upload was begun")
        return upload

    async def _send_all(self, first: bytes, rest: AsyncIterator[bytes]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                await self._start(group, first)
                async for part in rest:
                    await self._start(group, part)
        except BaseExceptionGroup as errors:
            raise _first(errors) from errors

    async def _start(self, group: asyncio.TaskGroup, part: bytes) -> None:
        """Send a part beside the others, once there is room for it."""
        await self._room.acquire()
        self._count += 1
        self._size += len(part)
        group.create_task(self._send(self._count, part), name=f"part {self._count} of {self._target.key}")

    async def _send(self, number: int, part: bytes) -> None:
        query = (("partNumber", str(number)), ("uploadId", self._upload))
        ask = Ask("write", "PUT", self._target.key, query, body=part)
        try:
            async with self._requests.lanes:
                headers, _ = await persist(self._requests.patience, lambda: self._requests.tell(ask))
        except ObjectNotFoundError as error:
            raise self._vanished() from error
        finally:
            self._room.release()
        self._etags[number] = headers.get("etag", "")

    async def _complete(self) -> ObjectInfo:
        target = self._target
        condition = target.versions.condition(target.when) if target.versions.conditional_complete else {}
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>"
            for number, etag in sorted(self._etags.items())
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        ask = Ask("write", "POST", target.key, (("uploadId", self._upload),), condition, body, _COMPLETION)
        try:
            headers, answer = await persist(self._requests.patience, lambda: self._finish(ask))
        except PreconditionFailedError:
            return await _ours(target)
        except ObjectNotFoundError as error:  # there is no such upload any more, or no such version
            try:
                return await _ours(target)
            except PreconditionFailedError:
                raise (mismatch(target) if target.when else self._vanished()) from error
        etag = headers.get("x-goog-generation") or plain_etag(field_of(answer, "ETag"))
        return ObjectInfo(target.key, self._size, etag, http_date(headers.get("date", "")))

    async def _finish(self, ask: Ask) -> tuple[Mapping[str, str], bytes]:
        headers, answer = await self._requests.tell(ask)
        if refused(answer):  # it was begun as a success before it turned out
            raise await self._requests.fault(Refusal.read(500, headers, answer), ask)
        return headers, answer

    async def _abort(self) -> None:
        """Take the parts away; that it fails as well changes nothing for the reader of the object."""
        ask = Ask("write", "DELETE", self._target.key, (("uploadId", self._upload),))
        try:
            async with asyncio.timeout(_ABORT):
                await persist(_ABORT, lambda: self._requests.tell(ask))
        except (StudioRunnerError, TimeoutError) as error:
            if not isinstance(error, ObjectNotFoundError):
                _log.warning(
                    "the parts of an upload to %s that was given up are left there: %s",
                    self._requests.address(self._target.key), error, extra={"action": "abort_upload"},
                )  # fmt: skip

    def _vanished(self) -> StorageUnavailableError:
        return StorageUnavailableError(
            f"{self._requests.address(self._target.key)}: the upload was ended by somebody else",
            hint="see whether the bucket's rules end multipart uploads early",
        )


def mismatch(target: Target) -> PreconditionFailedError:
    """Another version is there than the one that was to be replaced."""
    return PreconditionFailedError(
        f"{target.requests.address(target.key)} is not the version that was to be replaced"
    )


async def _check(target: Target) -> None:
    """The next best where a condition cannot be part of the write: a look just before it."""
    if target.when is None:
        return
    try:
        etag: str | None = target.versions.etag(await _head(target))
    except ObjectNotFoundError:
        etag = None
    if etag != target.when.etag:
        raise mismatch(target)


async def _head(target: Target) -> Mapping[str, str]:
    ask = Ask("read", "HEAD", target.key)
    headers, _ = await persist(target.requests.patience, lambda: target.requests.tell(ask))
    return headers


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong first; the rest followed from it."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
