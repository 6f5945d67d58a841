"""Makes stores of locations across the network."""

from base64 import b64encode
from functools import cached_property

from studio_runner.config.settings import StorageSettings
from studio_runner.messages.artifact import Credentials, Location
from studio_runner.storage.access import Access
from studio_runner.storage.objects.amazon import OwnKeys
from studio_runner.storage.objects.authority import Authority, Nobody, Signing
from studio_runner.storage.objects.bucket import GOOGLE_HOST, Bucket
from studio_runner.storage.objects.client import Client
from studio_runner.storage.objects.google import Bearer, OwnToken
from studio_runner.storage.objects.signing import GOOGLE, Keys
from studio_runner.storage.objects.store import ObjectStore
from studio_runner.storage.objects.web import WebStore

_CLOUDS = ("amazonaws.com", "amazonaws.com.cn", "googleapis.com")


class Opener:
    """Opens stores over one pool of connections."""

    def __init__(self, settings: StorageSettings) -> None:
        self._settings = settings
        self._client = Client(settings)
        self._own = Client(settings, None)

    def bucket(self, location: Location, access: Access) -> ObjectStore:
        """Of `s3://` and `gs://`."""
        host = GOOGLE_HOST if location.scheme == "gs" else location.endpoint
        aws = access.aws
        region = (aws and aws.region) or access.region
        bucket = Bucket.at(self._scheme(host, access), host, location.bucket, region)
        return ObjectStore(self._client, bucket, self._authority(bucket, access))

    def web(self, location: Location, access: Access) -> WebStore:
        """Of `http://` and `https://`."""
        return WebStore(
            self._client, f"{location.scheme}://{location.endpoint}", _authorization(access.credentials)
        )

    async def close(self) -> None:
        await self._client.close()
        await self._own.close()

    def _scheme(self, host: str, access: Access) -> str:
        name, _, port = host.lower().partition(":")
        cloud = port in {"", "443"} and any(name == one or name.endswith(f".{one}") for one in _CLOUDS)
        if said := access.scheme_for(host):
            return said
        return "https" if cloud or port == "443" else self._settings.scheme

    def _authority(self, bucket: Bucket, access: Access) -> Authority:
        """Whoever the message names, even if that is nobody; else the runner itself, where it lends itself."""
        aws, google = access.aws, bucket.dialect is GOOGLE
        if aws is not None:
            return Nobody() if aws.anonymous else Signing(Keys.of(aws))
        if google and access.credentials and access.credentials.jwt:
            return Bearer(access.credentials.jwt.token)
        if access.credentials or not self._settings.allow_env_secrets:
            return Nobody()
        if google:
            return self._own_token
        return self._own_keys

    @cached_property
    def _own_keys(self) -> OwnKeys:
        return OwnKeys()

    @cached_property
    def _own_token(self) -> OwnToken:
        return OwnToken(self._own)


def _authorization(credentials: Credentials | None) -> str:
    if credentials and credentials.jwt:
        return f"Bearer {credentials.jwt.token}"
    if credentials and credentials.plain:
        pair = f"{credentials.plain.user}:{credentials.plain.password}"
        return f"Basic {b64encode(pair.encode()).decode()}"
    return ""
