"""In whose name requests are made."""

import time
from typing import Protocol

from studio_runner.storage.objects.bucket import Bucket
from studio_runner.storage.objects.signing import Keys, Unsigned, sign


class Authority(Protocol):
    """Whoever may read and write a bucket, or nobody."""

    async def who(self) -> str:
        """For people; "" for nobody. Never a secret."""
        ...

    async def headers(self, request: Unsigned, bucket: Bucket, skew: float) -> dict[str, str]:
        """Those of `request`, and what shows the authority; the service's clock is `skew` seconds before this
        machine's."""
        ...


class Nobody:
    """Anonymous requests."""

    async def who(self) -> str:
        return ""

    async def headers(self, request: Unsigned, bucket: Bucket, skew: float) -> dict[str, str]:  # noqa: ARG002
        return dict(request.headers)


class Signing:
    """Requests signed with one pair of keys."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def who(self) -> str:
        return str(self._keys)

    async def headers(self, request: Unsigned, bucket: Bucket, skew: float) -> dict[str, str]:
        return sign(request, self._keys, bucket.dialect, bucket.region, time.time() + skew)
