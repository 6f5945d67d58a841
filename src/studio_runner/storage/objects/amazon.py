"""The runner's own keys for S3, from wherever Amazon's own tools would take them."""

import asyncio
import time
from typing import Any

from studio_runner.storage.objects.authority import Nobody, Signing
from studio_runner.storage.objects.bucket import Bucket
from studio_runner.storage.objects.signing import Keys, Unsigned

_FRESH = 60.0
"""Seconds after which keys that may change are asked for again."""


class OwnKeys:
    """From environment, files, web identity, containers and instances; anonymous when there is nothing of that."""

    def __init__(self) -> None:
        self._source: Any = None
        self._signing: Signing | Nobody = Nobody()
        self._asked = 0.0
        self._asking = asyncio.Lock()

    async def who(self) -> str:
        return await (await self._current()).who()

    async def headers(self, request: Unsigned, bucket: Bucket, skew: float) -> dict[str, str]:
        return await (await self._current()).headers(request, bucket, skew)

    async def _current(self) -> Signing | Nobody:
        async with self._asking:
            if not self._asked or time.monotonic() - self._asked > _FRESH:
                self._signing = await asyncio.to_thread(self._ask)
                self._asked = time.monotonic()
        return self._signing

    def _ask(self) -> Signing | Nobody:
        """In a thread: it reads files and may ask a server."""
        if self._source is None:
            import botocore.session  # noqa: PLC0415 - heavy, and seldom wanted

            self._source = botocore.session.Session().get_credentials()
        if self._source is None:
            return Nobody()
        frozen = self._source.get_frozen_credentials()  # renewed when they are about to end
        return Signing(Keys(frozen.access_key, frozen.secret_key, frozen.token or None))
