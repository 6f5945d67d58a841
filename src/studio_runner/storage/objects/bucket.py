"""Where one bucket is reached."""

import re
from dataclasses import dataclass, replace

from studio_runner.storage.objects.signing import AWS, GOOGLE, Dialect, encode_path

GOOGLE_HOST = "storage.googleapis.com"
_AWS_HOST = re.compile(
    r"(?:s3|s3[.-](?P<region>[a-z]{2}(?:-[a-z]+)+-\d)|s3\.dualstack\.(?P<dual>[a-z0-9-]+)|s3-external-1)"
    r"\.(?P<domain>amazonaws\.com(?:\.cn)?)"
)
_HOST_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")


@dataclass(frozen=True)
class Bucket:
    """A bucket at `host` (`HOST[:PORT]`)."""

    scheme: str
    host: str
    name: str
    region: str

    @classmethod
    def at(cls, scheme: str, host: str, name: str, region: str | None) -> "Bucket":
        """`region` None: the one that the host's name tells, else us-east-1."""
        aws = _AWS_HOST.fullmatch(host.lower().removesuffix(":443"))
        told = aws and (aws["region"] or aws["dual"])
        bucket = cls(scheme, host, name, region or told or "us-east-1")
        return bucket.moved(bucket.region) if aws and not told else bucket

    @property
    def endpoint(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def dialect(self) -> Dialect:
        return GOOGLE if self.host.lower().partition(":")[0] == GOOGLE_HOST else AWS

    @property
    def netloc(self) -> str:
        """Host and port that requests go to."""
        return f"{self.name}.{self._plain_host}" if self._virtual else self._plain_host

    def path(self, key: str) -> str:
        """Of an object's URL, or with "" of the bucket's, encoded."""
        return encode_path(f"/{key}" if self._virtual else f"/{self.name}/{key}" if key else f"/{self.name}")

    def address(self, key: str) -> str:
        """For people."""
        return f"{'gs' if self.dialect is GOOGLE else 's3'}://{self.host}/{self.name}/{key}"

    def moved(self, region: str) -> "Bucket":
        """The same bucket, known to be in `region`. A message may say any; it must not lead to another host."""
        aws = _AWS_HOST.fullmatch(self._plain_host) if _HOST_LABEL.fullmatch(region) else None
        host = f"s3.{region}.{aws['domain']}" if aws else self.host
        return replace(self, region=region, host=host)

    @property
    def _plain_host(self) -> str:
        """As clients say it in the Host header: without the scheme's own port."""
        return self.host.lower().removesuffix(":443" if self.scheme == "https" else ":80")

    @property
    def _virtual(self) -> bool:
        """Addressed by host name, as AWS wants it; a bucket whose name does not fit into its certificate is not."""
        return _AWS_HOST.fullmatch(self._plain_host) is not None and _HOST_LABEL.fullmatch(self.name) is not None
