"""How a service names an object's version, and how it is asked for only that.

S3 goes by the etag; Google by the generation, of which the etag of a composed object says nothing.
"""

from collections.abc import Mapping
from typing import NamedTuple

from studio_runner.storage.base import ObjectInfo, Precondition
from studio_runner.storage.objects.answers import http_date, plain_etag
from studio_runner.storage.objects.signing import AWS, GOOGLE, Dialect


class Versions(NamedTuple):
    """The headers of one dialect."""

    dialect: Dialect
    conditional_complete: bool
    """Whether a multipart upload's completion takes a condition."""

    @property
    def mark(self) -> str:
        """The header that tells whose put an object is."""
        return f"{self.dialect.headers}meta-studio-runner-put"

    def etag(self, headers: Mapping[str, str]) -> str:
        if self.dialect is GOOGLE:
            return headers.get("x-goog-generation", "")
        return plain_etag(headers.get("etag", ""))

    def pinned(self, etag: str) -> dict[str, str]:
        """For a read of this version alone."""
        if not etag:
            return {}
        return {"x-goog-if-generation-match": etag} if self.dialect is GOOGLE else {"if-match": f'"{etag}"'}

    def condition(self, when: Precondition | None) -> dict[str, str]:
        """For a write that replaces this version alone."""
        if when is None:
            return {}
        if self.dialect is GOOGLE:
            return {"x-goog-if-generation-match": when.etag or "0"}
        return {"if-none-match": "*"} if when.etag is None else {"if-match": f'"{when.etag}"'}

    def describe(self, key: str, headers: Mapping[str, str]) -> ObjectInfo:
        """What the answer to a GET or HEAD says of the object."""
        return ObjectInfo(key, size_of(headers), self.etag(headers), http_date(headers.get("last-modified", "")))


S3_VERSIONS = Versions(AWS, conditional_complete=True)
GOOGLE_VERSIONS = Versions(GOOGLE, conditional_complete=False)


def versions_of(dialect: Dialect) -> Versions:
    return GOOGLE_VERSIONS if dialect is GOOGLE else S3_VERSIONS


def size_of(headers: Mapping[str, str]) -> int:
    """Of the whole object, also when only a part of it came; -1 when that is not said."""
    whole = headers.get("content-range", "").rpartition("/")[2] or headers.get("content-length", "")
    return int(whole) if whole.isdecimal() and len(whole) < 19 else -1
