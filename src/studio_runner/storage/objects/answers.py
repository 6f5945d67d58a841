"""What S3 says: listings, and refusals in the project's errors."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET

from studio_runner.errors import (
    ArtifactInvalidError,
    ArtifactMissingError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StorageUnavailableError,
    StudioRunnerError,
    UnauthorisedError,
)
from studio_runner.storage.base import ObjectInfo
from studio_runner.storage.objects.retry import PassingError

_PASSING = {
    "SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted", "Busy",
    "ConditionalRequestConflict", "TooManyRequests", "BandwidthLimitExceeded", "RequestTimeoutException",
}  # fmt: skip
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504, 509}
_WRONG_KEY = {"InvalidAccessKeyId", "InvalidSecurity", "InvalidAccessKeyID"}
_WRONG_SECRET = {"SignatureDoesNotMatch"}
_WRONG_TOKEN = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
_SKEWED = {"RequestTimeTooSkewed", "RequestInTheFuture", "RequestExpired"}
_ELSEWHERE = {
    "PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException",
    "InvalidRegionName",
}  # fmt: skip

_MOST_TAGS = 200_000
"""Of an answer. A listing of a thousand objects has a tenth of that."""


class NotSupportedError(StorageUnavailableError):
    """The store does not know what was asked of it."""


@dataclass(frozen=True)
class Refusal:
    """An answer that is none: `code` and `message` are the server's, "" where it said none."""

    status: int
    code: str
    message: str
    region: str
    date: float
    after: float

    @classmethod
    def read(cls, status: int, headers: Mapping[str, str], body: bytes) -> "Refusal":
        said = _fields(body)
        region = headers.get("x-amz-bucket-region") or said.get("Region", "")
        return cls(
            status, said.get("Code", ""), _message(said, body), region, http_date(headers.get("date", "")),
            _seconds(headers.get("retry-after", "")),
        )  # fmt: skip

    @property
    def passes(self) -> bool:
        return self.code in _PASSING or (self.status in _PASSING_STATUS and self.code not in _SKEWED)

    @property
    def skewed(self) -> bool:
        """The request's time is not the server's."""
        return self.code in _SKEWED

    @property
    def elsewhere(self) -> bool:
        """The bucket is in another region than was said."""
        return bool(self.region) and (self.code in _ELSEWHERE or self.status in {301, 307, 400})

    @property
    def words(self) -> str:
        """The server's own, for people."""
        code = self.code or f"status {self.status}"
        return f"{code}: {self.message}" if self.message else code


class About(NamedTuple):
    """What a refused request was about."""

    endpoint: str
    bucket: str
    address: str
    who: str
    """Whose credentials it bore; "" for none."""
    verb: str
    """What it would have done: `read`, `write`, `list`, `delete`."""


def fault(refusal: Refusal, about: About) -> StudioRunnerError | PassingError:
    """The error that a refusal is."""
    if refusal.passes:
        return PassingError(f"{about.endpoint} refuses for now ({refusal.words})", refusal.after)
    if refusal.skewed:
        return _skewed(refusal, about)
    if refusal.status in {401, 403} or refusal.code in _WRONG_KEY | _WRONG_SECRET | _WRONG_TOKEN:
        return _unauthorised(refusal, about)
    return _absent(refusal, about) or _unsuitable(refusal, about)


def _absent(refusal: Refusal, about: About) -> StudioRunnerError | None:
    if refusal.code == "NoSuchBucket":
        return ArtifactMissingError(
            f"bucket {about.bucket} does not exist on {about.endpoint}",
            hint="make the bucket, or correct the address of the artifact",
        )
    if refusal.status in {404, 410}:
        return ObjectNotFoundError(f"no object at {about.address}")
    if refusal.status == 412:
        return PreconditionFailedError(f"{about.address} is not the version that was to be replaced")
    return None


def _unsuitable(refusal: Refusal, about: About) -> StudioRunnerError:
    if refusal.code == "NotImplemented":
        return NotSupportedError(f"{about.endpoint} cannot do what is asked of it ({refusal.words})")
    if "HTTPS" in refusal.message:
        return StorageUnavailableError(
            f"{about.endpoint} wants TLS ({refusal.message})", hint="give its endpoint as https://"
        )
    if refusal.status >= 500:
        return StorageUnavailableError(f"{about.endpoint} cannot {about.verb} {about.address} ({refusal.words})")
    return ArtifactInvalidError(f"{about.endpoint} refuses to {about.verb} {about.address} ({refusal.words})")


def _skewed(refusal: Refusal, about: About) -> StudioRunnerError:
    return StorageUnavailableError(
        f"{about.endpoint} refuses requests because this machine's clock is not its own ({refusal.words})",
        hint="set the clock of this machine, by NTP for one",
    )


def _unauthorised(refusal: Refusal, about: About) -> StudioRunnerError:
    if refusal.code in _WRONG_KEY:
        return UnauthorisedError(
            f"{about.endpoint} does not know {about.who or 'the sender'}", hint="correct the access key"
        )
    if refusal.code in _WRONG_SECRET:
        return UnauthorisedError(
            f"{about.endpoint} does not accept the secret of {about.who or 'the sender'}",
            hint="correct the secret access key",
        )
    if refusal.code in _WRONG_TOKEN:
        return UnauthorisedError(
            f"{about.endpoint}: the session token of {about.who or 'the sender'} is not valid any more",
            hint="send the experiment again with a new one",
        )
    if not about.who:
        return UnauthorisedError(
            f"{about.endpoint} lets nobody {about.verb} {about.address} without credentials",
            hint="give the artifact credentials",
        )
    return UnauthorisedError(
        f"{about.endpoint} forbids {about.who} to {about.verb} {about.address} ({refusal.words})",
        hint="grant it, with the right to list the bucket: without that, what is missing is forbidden too",
    )


class Page(NamedTuple):
    """A part of a listing; `next` is the token of the part after it."""

    entries: list[ObjectInfo]
    next: str | None


def listing(body: bytes) -> Page:
    """Reads ListObjectsV2's answer; StorageUnavailableError when it is none."""
    root = _parsed(body)
    if root is None or _tag(root) != "ListBucketResult":
        raise StorageUnavailableError("what came is no listing of a bucket", hint="is that an S3 endpoint?")
    tail = {_tag(part): part.text or "" for part in root if _tag(part) != "Contents"}
    items = ({_tag(part): part.text or "" for part in item} for item in root if _tag(item) == "Contents")
    name = unquote_plus if tail.get("EncodingType") == "url" else str
    try:
        entries = [_entry(name(said["Key"]), said) for said in items]
    except (KeyError, ValueError, OverflowError) as error:
        raise StorageUnavailableError("a listing of a bucket has an entry that cannot be read") from error
    more = tail.get("IsTruncated", "").lower() == "true"
    return Page(entries, tail.get("NextContinuationToken") if more else None)


def _entry(key: str, said: Mapping[str, str]) -> ObjectInfo:
    modified = datetime.fromisoformat(said["LastModified"]).timestamp()
    etag = said.get("Generation") or plain_etag(said.get("ETag", ""))
    return ObjectInfo(key, int(said["Size"]), etag, modified)


def field_of(body: bytes, name: str) -> str:
    """One element's text from a short answer, "" when it is not there."""
    return _fields(body).get(name, "")


def refused(body: bytes) -> bool:
    """Whether an answer of status 200 is an error all the same, as long operations may end."""
    root = _parsed(body)
    return root is not None and _tag(root) == "Error"


def plain_etag(etag: str) -> str:
    """Without quotes."""
    return etag.strip().removeprefix("W/").strip('"')


def http_date(text: str) -> float:
    """Unix time; 0.0 when it is none."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _seconds(text: str) -> float:
    return float(text) if text.isdecimal() and len(text) < 6 else 0.0


def _message(said: Mapping[str, str], body: bytes) -> str:
    """In one line; a body that is no error of S3 counts if it is text."""
    text = said.get("Message", "") if said else body[:200].decode("utf-8", "replace")
    line = " ".join(text.split())
    return line if line.isprintable() and not line.startswith("<") else ""


def _fields(body: bytes) -> dict[str, str]:
    root = _parsed(body)
    return {} if root is None else {_tag(part): (part.text or "").strip() for part in root}


class _Plain(ET.TreeBuilder):
    """Of documents without a document type, and so without entities that grow when they are read."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:  # noqa: ARG002  its signature
        raise ValueError("a document type, which no answer of S3 has")


def _parsed(body: bytes) -> ET.Element | None:
    if max(body.count(b"<"), body.count(b"=")) > _MOST_TAGS:  # each becomes an object, and takes its time
        return None
    try:
        return ET.fromstring(body, ET.XMLParser(target=_Plain()))  # noqa: S314 - no entities without a document type
    except (ET.ParseError, ValueError, LookupError):
        return None


def _tag(element: ET.Element) -> str:
    name: str = element.tag.rpartition("}")[2]
    return name
