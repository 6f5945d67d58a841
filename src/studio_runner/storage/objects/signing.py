"""Signature version 4 of requests to S3, and Google's twin of it.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html and
https://cloud.google.com/storage/docs/authentication/signatures
"""

import hashlib
import hmac
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import quote

from studio_runner.messages.artifact import AwsCredentials

UNSIGNED = "UNSIGNED-PAYLOAD"
"""Stands for the hash of a body that TLS protects already."""
EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Dialect:
    """The words of one service."""

    algorithm: str
    prefix: str
    headers: str
    service: str
    terminator: str


AWS = Dialect("AWS4-HMAC-SHA256", "AWS4", "x-amz-", "s3", "aws4_request")
GOOGLE = Dialect("GOOG4-HMAC-SHA256", "GOOG4", "x-goog-", "storage", "goog4_request")


@dataclass(frozen=True)
class Keys:
    """What a request is signed with."""

    access_key: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, credentials: AwsCredentials) -> "Keys":
        return cls(credentials.access_key, credentials.secret_access_key, credentials.session_token or None)

    def __str__(self) -> str:
        """For people: enough to know which, too little to use."""
        return f"access key {self.access_key[:4]}..."


@dataclass(frozen=True)
class Unsigned:
    """A request as it is to be signed: `path` and `query` are encoded already, `headers` in lower case."""

    method: str
    host: str
    path: str
    query: str
    headers: Mapping[str, str]
    body_hash: str


def encode_path(path: str, safe: str = "/~") -> str:
    """As the signature wants it: each byte but letters, digits, `-_.~/` as `%XX`."""
    return quote(path, safe=safe)


def encode_query(pairs: Iterable[tuple[str, str]]) -> str:
    return "&".join(sorted(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in pairs))


@lru_cache(maxsize=256)
def _signing_key(secret: str, dialect: Dialect, day: str, region: str) -> bytes:
    key = f"{dialect.prefix}{secret}".encode()
    for part in (day, region, dialect.service, dialect.terminator):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def sign(request: Unsigned, keys: Keys, dialect: Dialect, region: str, now: float) -> dict[str, str]:
    """The headers of `request` and those that sign it; `now` is Unix time by the service's clock."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    headers = {
        **request.headers,
        "host": request.host,
        f"{dialect.headers}content-sha256": request.body_hash,
        f"{dialect.headers}date": moment,
    }
    if keys.token:
        headers[f"{dialect.headers}security-token"] = keys.token
    signed = sorted(name for name in headers if name == "host" or name.startswith(dialect.headers))
    names = ";".join(signed)
    lines = "".join(f"{name}:{headers[name].strip()}\n" for name in signed)
    canonical = f"{request.method}\n{request.path}\n{request.query}\n{lines}\n{names}\n{request.body_hash}".encode()
    scope = f"{moment[:8]}/{region}/{dialect.service}/{dialect.terminator}"
    digest = hashlib.sha256(canonical).hexdigest()
    key = _signing_key(keys.secret, dialect, moment[:8], region)
    signature = hmac.digest(key, f"{dialect.algorithm}\n{moment}\n{scope}\n{digest}".encode(), "sha256").hex()
    headers["authorization"] = (
        f"{dialect.algorithm} Credential={keys.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return headers
