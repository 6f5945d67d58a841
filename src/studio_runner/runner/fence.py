"""The fence: which attempt an experiment's results are taken from, whatever became of its lease.

One small object beside the experiment's artifacts, written only on condition that it is as it was last seen.
While it does not exist, the first attempt counts. Every later attempt takes it over before it starts, and the
attempt that puts its results into it has delivered: one that was believed dead finds the object changed and gives
up, one that comes after finds the results and runs nothing.

On a store that knows no conditional writes the last writer counts, and there is a moment in which two attempts can
both believe to have delivered.
"""

import hashlib
import json
import logging
import posixpath
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from studio_runner.errors import (
    ObjectNotFoundError,
    PreconditionFailedError,
    StorageUnavailableError,
    SupersededError,
    UnauthorisedError,
)
from studio_runner.messages.jsontext import beginning
from studio_runner.messages.request import Request
from studio_runner.storage.base import ObjectInfo, Precondition, Store
from studio_runner.storage.blocking import blocking

log = logging.getLogger(__name__)

NAME = "_attempt.json"
LIMIT = 1 << 20
TRIES = 5


@dataclass(frozen=True)
class Seen:
    """The fence as it was found."""

    etag: str
    document: Mapping[str, Any]

    @property
    def submitted(self) -> float:
        """Unix time; 0 where it is unknown."""
        found = self.document.get("submitted")
        return found if isinstance(found, float) else 0.0

    @property
    def results(self) -> Mapping[str, Any] | None:
        found = self.document.get("results")
        return found if isinstance(found, dict) else None


class Fence:
    """One attempt's view of it. The request is the message: what is there of another message under the same key is
    of another submission. `attempt` is for people."""

    def __init__(self, store: Store, folder: str, request: Request, attempt: Mapping[str, Any]) -> None:
        self._store, self._key = store, posixpath.join(folder, NAME)
        self._message = hashlib.sha256(request.body).hexdigest()
        self._submitted = request.experiment.time_added or 0.0
        own = {"token": uuid.uuid4().hex, "message": self._message, "submitted": self._submitted}
        self._own = {**own, **attempt}
        self._etag: str | None = None
        self._closed = False
        """The credentials do not reach it: then nothing is fenced."""

    @property
    def stands(self) -> bool:
        return not self._closed

    async def is_outdated(self) -> bool:
        """Whether a later submission of the same key has been here, by their senders' clocks."""
        try:
            seen = await self._look()
        except UnauthorisedError:  # `approach` says so
            return False
        return seen is not None and seen.submitted > self._submitted

    async def approach(self, *, first: bool) -> Mapping[str, Any] | None:
        """Make this attempt the one that counts; or the results that an earlier attempt at the same message
        delivered, where nothing is to be run any more.

        `first`: nobody had the message before, so that what is there is of another submission.
        """
        try:
            return await self._approach(first=first)
        except UnauthorisedError as error:
            self._closed = True
            log.info("results are not fenced: %s", error)
            return None

    async def _approach(self, *, first: bool) -> Mapping[str, Any] | None:
        for _ in range(TRIES):
            seen = await self._look()
            if seen and seen.results and not first and seen.document.get("message") == self._message:
                return seen.results
            if seen is None and first:
                return None
            try:
                await self._write(seen.etag if seen else None, {})
            except PreconditionFailedError:
                continue  # somebody else did, just now
            return None
        raise SupersededError("several runners try to take the experiment over at the same time")

    async def hold(self) -> None:
        """SupersededError when another attempt counts now."""
        if self._closed:
            return
        try:
            found: str | None = (await self._head()).etag
        except ObjectNotFoundError:
            found = None
        if found != self._etag:
            raise self._superseded()

    async def commit(self, results: Mapping[str, Any]) -> None:
        """Deliver: from now on these are the experiment's results. SupersededError when another attempt counts."""
        for _ in range(TRIES):
            if self._closed:
                return
            try:
                await self._write(self._etag, {"results": results})
            except PreconditionFailedError as error:
                seen = await self._look()
                if seen is None or seen.document.get("token") != self._own["token"]:
                    raise self._superseded() from error
                if seen.results:  # it was our own write, of which the answer got lost
                    return
                self._etag = seen.etag
            except UnauthorisedError as error:
                self._closed = True
                log.warning("results are not fenced: %s", error)
            else:
                return
        raise StorageUnavailableError("the store answers conditional writes inconsistently")

    async def _write(self, etag: str | None, more: Mapping[str, Any]) -> None:
        body = json.dumps({**self._own, **more}).encode()
        info: ObjectInfo = await self._store.put(self._key, _whole(body), when=Precondition(etag))
        self._etag = info.etag

    async def _look(self) -> Seen | None:
        """What is there: with the etag of what was read, whatever is written meanwhile."""
        try:
            before = await self._head()
            body = await beginning(self._store.get(self._key), LIMIT)
        except ObjectNotFoundError:
            return None
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        return Seen(before.etag, document if isinstance(document, dict) else {})

    async def _head(self) -> ObjectInfo:
        """Mostly it is not there. On this machine that is known sooner than a thread could be asked."""
        here = blocking(self._store)
        return here.info(self._key) if here else await self._store.head(self._key)

    def _superseded(self) -> SupersededError:
        return SupersededError(
            "another attempt has taken the experiment over",
            hint="this runner was out of touch for longer than its lease",
        )


async def _whole(body: bytes) -> AsyncIterator[bytes]:
    yield body
