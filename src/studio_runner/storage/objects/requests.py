"""Requests to one bucket: signed, sent, and refusals understood."""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

from studio_runner.errors import StudioRunnerError
from studio_runner.storage.objects.answers import About, Refusal, fault
from studio_runner.storage.objects.authority import Authority
from studio_runner.storage.objects.bucket import Bucket
from studio_runner.storage.objects.client import Call, Client, Reply
from studio_runner.storage.objects.retry import PassingError
from studio_runner.storage.objects.signing import EMPTY, UNSIGNED, Unsigned, encode_query

_log = logging.getLogger(__name__)
_ADAPTATIONS = 3
_THREAD = 1 << 17
"""Bytes of which hashing takes longer than a hop to a thread."""
_NOT_FOUND = 404


@dataclass(frozen=True)
class Ask:
    """What is asked of a bucket; `verb` is for people: read, write, list, delete."""

    verb: str
    method: str
    key: str = ""
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    stall: float | None = None


class Requests:
    """Asks one bucket. Learns its region and its clock from the first refusal that tells them."""

    def __init__(self, client: Client, bucket: Bucket, authority: Authority) -> None:
        self._client = client
        self._bucket = bucket
        self._authority = authority
        self._skew = 0.0
        self._exists = False

    def __repr__(self) -> str:
        return self.address("")

    @property
    def patience(self) -> float:
        return self._client.patience

    @property
    def lanes(self) -> asyncio.Semaphore:
        return self._client.lanes

    def address(self, key: str) -> str:
        """For people."""
        return self._bucket.address(key)

    @asynccontextmanager
    async def ask(self, ask: Ask) -> AsyncIterator[Reply]:
        """The answer, if it is one; refusals are raised: the errors of the storage seam, or PassingError."""
        async with AsyncExitStack() as stack:
            yield await self._answer(ask, stack)

    async def tell(self, ask: Ask) -> tuple[Mapping[str, str], bytes]:
        """As `ask`: headers and the whole body."""
        async with self.ask(ask) as reply:
            return reply.headers, await reply.read()

    async def _answer(self, ask: Ask, stack: AsyncExitStack) -> Reply:
        for _ in range(_ADAPTATIONS):
            reply = await stack.enter_async_context(self._client.send(await self._call(ask)))
            if reply.status < 300:
                self._exists = True
                return reply
            refusal = Refusal.read(reply.status, reply.headers, await reply.beginning())
            await stack.aclose()
            if ask.method == "HEAD" and not refusal.passes and refusal.status != _NOT_FOUND:
                # Such an answer has no text that would say why.
                return await self._answer(replace(ask, method="GET", headers={"range": "bytes=0-0"}), stack)
            if not self._adapt(refusal):
                break
        raise await self.fault(refusal, ask)

    async def _call(self, ask: Ask) -> Call:
        bucket = self._bucket
        path, query = bucket.path(ask.key), encode_query(ask.query)
        unsigned = Unsigned(ask.method, bucket.netloc, path, query, ask.headers, await self._hash(ask.body))
        headers = await self._authority.headers(unsigned, bucket, self._skew)
        url = f"{bucket.scheme}://{bucket.netloc}{path}"
        return Call(ask.method, f"{url}?{query}" if query else url, headers, ask.body, ask.stall)

    async def _hash(self, body: bytes) -> str:
        if not body:
            return EMPTY
        if self._bucket.scheme == "https":
            return UNSIGNED
        if len(body) < _THREAD:
            return hashlib.sha256(body).hexdigest()
        return await asyncio.to_thread(lambda: hashlib.sha256(body).hexdigest())

    def _adapt(self, refusal: Refusal) -> bool:
        """Whether the next request will be another one."""
        if refusal.elsewhere and refusal.region != self._bucket.region:
            self._bucket = self._bucket.moved(refusal.region)
            return True
        if refusal.skewed and refusal.date:
            skew = refusal.date - time.time()
            moved = abs(skew - self._skew)
            self._skew = skew
            if moved > 1.0:
                way = "behind" if skew > 0 else "ahead of"
                _log.warning(
                    "the clock of this machine is %.0f s %s that of %s, which is allowed for from here on: set it",
                    abs(skew), way, self._bucket.endpoint, extra={"action": "clock_skew"},
                )  # fmt: skip
                return True
        return False

    async def fault(self, refusal: Refusal, ask: Ask) -> StudioRunnerError | PassingError:
        """The error that a refusal of `ask` is."""
        if refusal.status == _NOT_FOUND and not refusal.code and not await self._bucket_exists():
            refusal = replace(refusal, code="NoSuchBucket")
        self._exists = self._exists or refusal.code == "NoSuchKey"
        bucket = self._bucket
        who = await self._authority.who()
        return fault(refusal, About(bucket.endpoint, bucket.name, bucket.address(ask.key), who, ask.verb))

    async def _bucket_exists(self) -> bool:
        """Whether there is the bucket at all, which a HEAD of an object does not tell."""
        if not self._exists:
            async with self._client.send(await self._call(Ask("read", "HEAD"))) as reply:
                self._exists = reply.status != _NOT_FOUND
        return self._exists
