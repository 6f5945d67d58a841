"""Artifacts: what is brought to an experiment and back, and where it is stored (INTERFACE section 2)."""

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from studio_runner.messages.fields import Duration, Label, Model, SystemText, Text, or_empty_object
from studio_runner.messages.refusal import NotAcceptedError
from studio_runner.messages.secrets import mask_urls

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_WITH_HOST = frozenset({"s3", "http", "https"})
_ARCHIVE = re.compile(r"\.(tar(\.(gz|bz2|xz|zst))?|tgz|tbz2?)$", re.IGNORECASE)
_HOST = re.compile(
    r"(\[[0-9a-f:.]+\]|(?!.{254})[^\s\x00-\x20\[\]:/?#@%\\.]{1,63}(\.[^\s\x00-\x20\[\]:/?#@%\\.]{1,63})*\.?)(:[0-9]{1,5})?",
    re.IGNORECASE,
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ADDRESS = "an address such as s3://HOST/BUCKET/KEY, gs://BUCKET/KEY, file:///PATH or https://HOST/PATH"


@dataclass(frozen=True, repr=False)
class Location:
    """Where an artifact is stored. `endpoint` is `HOST[:PORT]` (s3, http, https); `key` of a file is its absolute
    path, of a container reference all that follows the scheme. User names and passwords are not part of it."""

    scheme: str
    endpoint: str
    bucket: str
    key: str

    def __repr__(self) -> str:
        place = "/".join(part for part in (self.endpoint, self.bucket, self.key) if part)
        return f"Location({mask_urls(f'{self.scheme}://{place}')!r})"

    @classmethod
    def parse(cls, address: str) -> "Location":
        """Taken as it is spelled: a key may hold `%`, `?`, `#` and blanks, and clients do not escape them."""
        scheme, separator, rest = address.partition("://")
        if not separator or not _SCHEME.fullmatch(scheme):
            raise NotAcceptedError(address, _ADDRESS)
        location = _located(scheme.lower(), rest)
        if not location.key or (location.scheme in {"s3", "gs"} and not location.bucket):
            raise NotAcceptedError(address, _ADDRESS)
        if location.scheme in _WITH_HOST and not _is_host(location.endpoint):
            raise NotAcceptedError(address, _ADDRESS)
        return location


def _is_host(endpoint: str) -> bool:
    """Whether it is `HOST[:PORT]`, a name or an address, and not the beginning of something else."""
    port = endpoint.rpartition(":")[2]
    return _HOST.fullmatch(endpoint) is not None and (not port.isdecimal() or int(port) < 1 << 16)


def _located(scheme: str, rest: str) -> Location:
    host, slash, path = rest.partition("/")
    host = host.rpartition("@")[2]
    match scheme:
        case "s3":
            bucket, _, key = path.partition("/")
            return Location(scheme, host, bucket, key if host else "")
        case "gs":
            return Location(scheme, "", host, path)
        case "file":
            return Location(scheme, "", "", _file_path(host, path) if slash else "")
        case "http" | "https":
            return Location(scheme, host, "", path if host else "")
        case _:  # a container's reference, or a scheme that only its store understands
            return Location(scheme, "", "", rest)


def _file_path(host: str, path: str) -> str:
    """Existing clients leave one slash out: in their `file://home/me/x` the first directory stands where hosts do.
    Files of other hosts are nobody's."""
    return f"/{path}" if host in {"", "localhost"} else f"/{host}/{path}"


class AwsCredentials(Model):
    """For S3; both keys empty: the bucket is public."""

    access_key: Text = Field(
        "", repr=False, validation_alias=AliasChoices("access_key", "access_key_id", "aws_access_key_id")
    )
    secret_access_key: Text = Field(
        "", repr=False, validation_alias=AliasChoices("secret_access_key", "secret_key", "aws_secret_access_key")
    )
    region: SystemText | None = Field(None, validation_alias=AliasChoices("region", "region_name"))
    session_token: SystemText | None = Field(
        None, repr=False, validation_alias=AliasChoices("session_token", "aws_session_token")
    )

    @property
    def anonymous(self) -> bool:
        return not self.access_key and not self.secret_access_key


class PlainCredentials(Model):
    """User and password."""

    user: Text = Field("", validation_alias=AliasChoices("user", "username"))
    password: Text = Field("", repr=False)


class JwtCredentials(Model):
    """A bearer token."""

    token: Text = Field("", repr=False)


def _bare_token(value: object) -> object:
    return {"token": value} if isinstance(value, str) else value


_Jwt = Annotated[JwtCredentials, BeforeValidator(_bare_token, json_schema_input_type=JwtCredentials | str)]


class Credentials(Model):
    """What opens an artifact's store; at most one kind is given."""

    aws: AwsCredentials | None = None
    plain: PlainCredentials | None = None
    jwt: _Jwt | None = None

    def __bool__(self) -> bool:
        return any(kind is not None for kind in (self.aws, self.plain, self.jwt))

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return [pair for pair in super().__repr_args__() if pair[1] is not None]


def credentials_in_address(address: str) -> Credentials | None:
    """Those that stand before the `@` of an address, where it has a host; NotAcceptedError for what can be none."""
    scheme, _, rest = address.partition("://")
    userinfo, at, _ = rest.partition("/")[0].rpartition("@")
    if not at or scheme.lower() not in _WITH_HOST:
        return None
    user, _, password = (unquote(part) for part in userinfo.partition(":"))
    if "\0" in user + password:
        raise NotAcceptedError(address, "a user and a password without NUL characters", found="an address with one")
    return Credentials(plain=PlainCredentials(user=user, password=password))


def _address(value: str) -> str:
    Location.parse(value)
    credentials_in_address(value)  # somebody will ask for them when it is too late to refuse them
    return value


def _sha256(value: str) -> str | None:
    if value and not _SHA256.fullmatch(value.lower()):
        raise NotAcceptedError(value, "the sha256 of the archive in 64 hexadecimal digits")
    return value.lower() or None


def _or_false(value: object) -> object:
    return False if value is None else value


_Flag = Annotated[StrictBool, BeforeValidator(_or_false, json_schema_input_type=bool | None)]
_Sha256 = Annotated[str | None, AfterValidator(lambda value: _sha256(value) if value else None)]


def _qualified_or_url(schema: dict[str, Any]) -> None:
    del schema["required"]
    schema["anyOf"] = [{"required": ["qualified"]}, {"required": ["url"]}]


class Artifact(Model):
    """One artifact of an experiment. `label` is the name it has in the message; `key` and `bucket` are taken from
    the address where the message does not repeat them; `save_frequency` is seconds, None for the experiment's."""

    model_config = ConfigDict(json_schema_extra=_qualified_or_url)

    label: SkipJsonSchema[Label] = ""
    qualified: Annotated[
        SystemText, AfterValidator(_address), WithJsonSchema({"type": ["string", "null"], "description": _ADDRESS})
    ] = Field(repr=False)
    url: str | None = Field(None, repr=False)
    bucket: Text = ""
    key: Text = Field("", repr=False)
    local: Any = Field(None, repr=False)
    mutable: _Flag = False
    unpack: _Flag = False
    hash: _Sha256 = None
    save_frequency: Duration = Field(None, alias="saveFrequency")
    credentials: Credentials | None = Field(None, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, value: Any) -> Any:
        """Old clients give `url` alone, and some no bucket and key. Existing clients leave it open for what they
        packed themselves (it has a key) whether it is to be unpacked: when they reuse another experiment's
        artifacts, and for the workspaces of a hyperparameter search."""
        address = (value.get("qualified") or value.get("url")) if isinstance(value, dict) else None
        if not isinstance(address, str):
            return value
        try:
            location = Location.parse(address)
        except NotAcceptedError:  # for the field itself to say
            return {**value, "qualified": address}
        unpack = value.get("unpack")
        return {
            **value,
            "qualified": address,
            "bucket": value.get("bucket") or location.bucket,
            "key": value.get("key") or location.key,
            "unpack": bool(value.get("key") and _ARCHIVE.search(address)) if unpack is None else unpack,
        }

    @cached_property
    def location(self) -> Location:
        return Location.parse(self.qualified)

    @property
    def address(self) -> str:
        """Where it is stored, for people: without what opens it."""
        return mask_urls(self.qualified)

    @property
    def name(self) -> str:
        """The last component of its key; of a web address without the query, which may carry its permission."""
        key = self.location.key
        path = key.partition("?")[0] if self.location.scheme in ("http", "https") else key
        return posixpath.basename(path.rstrip("/"))


def _labelled(value: object) -> object:
    """Tell each artifact its own label."""
    artifacts = or_empty_object(value)
    if not isinstance(artifacts, dict):
        return artifacts
    return {
        label: {**artifact, "label": label} if isinstance(artifact, dict) else artifact
        for label, artifact in artifacts.items()
    }


Artifacts = Annotated[
    dict[Label, Artifact], BeforeValidator(_labelled, json_schema_input_type=dict[str, Artifact] | None)
]
