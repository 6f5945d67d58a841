"""Makes stores of locations across the network."""

from base64 import b64encode

from studio_runner.config.settings import StorageSettings
from studio_runner.messages.artifact import Credentials, Location
from studio_runner.storage.access import Access
from studio_runner.storage.objects.authority import Authority, Nobody, Signing
from studio_runner.storage.objects.bucket import GOOGLE_HOST, Bucket
from studio_runner.storage.objects.client import Client
from studio_runner.storage.objects.signing import Keys
from studio_runner.storage.objects.store import ObjectStore
from studio_runner.storage.objects.web import WebStore

_CLOUDS = ("amazonaws.com", "amazonaws.com.cn", "googleapis.com")


class Opener:
    """Opens stores over one pool of connections."""

    def __init__(self, settings: StorageSettings) -> None:
        self._settings = settings
        self._client = Client(settings)

    def bucket(self, location: Location, access: Access) -> ObjectStore:
        """Of `s3://` and `gs://`."""
        host = location.endpoint or GOOGLE_HOST
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

    def _scheme(self, host: str, access: Access) -> str:
        name, _, port = host.lower().partition(":")
        cloud = port in {"", "443"} and any(name == one or name.endswith(f".{one}") for one in _CLOUDS)
        if said := access.scheme_for(host):
            return said
        return "https" if cloud or port == "443" else self._settings.scheme

    def _authority(self, bucket: Bucket, access: Access) -> Authority:  # noqa: ARG002
        aws = access.aws
        if aws is not None and not aws.anonymous:
            return Signing(Keys.of(aws))
        return Nobody()


def _authorization(credentials: Credentials | None) -> str:
    if credentials and credentials.jwt:
        return f"Bearer {credentials.jwt.token}"
    if credentials and credentials.plain:
        pair = f"{credentials.plain.user}:{credentials.plain.password}"
        return f"Basic {b64encode(pair.encode()).decode()}"
    return ""
