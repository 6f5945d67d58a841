"""Who opens a store, and how it is reached: what a request says of it (INTERFACE section 2)."""

import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from studio_runner.errors import ArtifactInvalidError
from studio_runner.messages.artifact import Artifact, AwsCredentials, Credentials, Location, credentials_in_address
from studio_runner.messages.request import Request, StoreConfig

AMAZON = "s3.amazonaws.com"
_KINDS = {"": "s3", "aws": "s3", "gcloud": "gs", "gcs": "gs", "file": "local"}
_LOCAL_BUCKET = "storage"
"""What existing clients call the directory under a local endpoint when nobody names one."""


@dataclass(frozen=True)
class Access:
    """`endpoint` is an address whose scheme counts where its host is the store's, "" for none; `region` is for
    credentials that name none."""

    credentials: Credentials | None = field(default=None, repr=False)
    endpoint: str = ""
    region: str | None = None

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells one access from another. Secret."""
        held = json.dumps(self.credentials.model_dump()) if self.credentials else ""
        return held, self.endpoint, self.region or ""

    @property
    def aws(self) -> AwsCredentials | None:
        """Keys to sign with; a user and a password in an `s3://` address are a pair of them. None: not given."""
        if self.credentials is None:
            return None
        plain = self.credentials.plain
        if self.credentials.aws is None and plain is not None:
            return AwsCredentials(access_key=plain.user, secret_access_key=plain.password)
        return self.credentials.aws

    def scheme_for(self, host: str) -> str:
        """`http` or `https`, where the endpoint says it of this `HOST[:PORT]`; else ""."""
        scheme, separator, _ = self.endpoint.partition("://")
        return scheme.lower() if separator and _same_host(self.endpoint, host) else ""


NOBODY = Access()


def access_to(request: Request, artifact: Artifact) -> Access:
    """What the request says of the store that `artifact` is in."""
    location = artifact.location
    web = location.scheme in {"http", "https"}
    # Elsewhere than in a signature, what opens one server is not to be shown to another.
    credentials = _own(artifact) if web else request.credentials(artifact)
    sections = (request.config.storage, request.config.database)
    endpoints = [section.endpoint for section in sections if section and section.endpoint]
    endpoint = next((one for one in endpoints if _same_host(one, location.endpoint)), "")
    return Access(credentials, endpoint, _region(request.environment_variables))


def access_of_section(section: StoreConfig, env: Mapping[str, str]) -> tuple[Location, Access]:
    """Where `config.storage` or `config.database` is, as a location without a key (see `below`), and what opens it.

    `env` is the request's. ArtifactInvalidError when the section names no store.
    """
    kind = (section.type or "").strip().lower()
    kind = _KINDS.get(kind, kind)
    bucket = (section.bucket or "").strip("/")
    endpoint = (section.endpoint or "").strip()
    if kind == "local":
        directory = Path(endpoint or "~").expanduser().absolute() / (bucket or _LOCAL_BUCKET)
        return Location("file", "", "", str(directory)), NOBODY
    if kind not in {"s3", "gs"} or not bucket:
        raise ArtifactInvalidError(
            f"the configuration of a store has the type {section.type!r} and the bucket {section.bucket!r}",
            hint="type is s3, gs or local, and s3 and gs have a bucket",
        )
    host = _host(endpoint) or AMAZON
    location = Location(kind, host if kind == "s3" else "", bucket, "")
    return location, Access(section.credentials or _of_environment(env), endpoint, _region(env))


def below(place: Location, key: str) -> Location:
    """The object `key` in a store's location."""
    return replace(place, key=posixpath.join(place.key, key))


def _own(artifact: Artifact) -> Credentials | None:
    return artifact.credentials or credentials_in_address(artifact.qualified)


def _of_environment(env: Mapping[str, str]) -> Credentials | None:
    if "AWS_ACCESS_KEY_ID" not in env or "AWS_SECRET_ACCESS_KEY" not in env:
        return None
    keys = AwsCredentials(
        access_key=env["AWS_ACCESS_KEY_ID"],
        secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        session_token=env.get("AWS_SESSION_TOKEN"),
    )
    return Credentials(aws=keys)


def _region(env: Mapping[str, str]) -> str | None:
    return env.get("AWS_DEFAULT_REGION") or env.get("AWS_REGION") or None


def _host(endpoint: str) -> str:
    """`HOST[:PORT]` of an address with or without a scheme."""
    return (endpoint.partition("://")[2] or endpoint).partition("/")[0].rpartition("@")[2].lower()


def _same_host(endpoint: str, host: str) -> bool:
    """Whether they are the same place; a port that the scheme implies need not be said."""
    if not endpoint or not host:
        return False
    implied = {"https": ":443", "http": ":80"}.get(urlsplit(endpoint).scheme.lower(), "")
    return _host(endpoint).removesuffix(implied) == host.lower().removesuffix(implied)
