"""One large object and many small ones to an S3 server on this machine and back, beside the usual tools.

Every tool reads and writes files of the same disk, and takes its turn in every round; rclone, which is a program,
has its start in its figures. What the tools leave in the server is removed between turns.
"""

import asyncio
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench.result import Result
from bench.rig import spread
from servers.seaweedfs import SeaweedS3
from studio_runner.messages.artifact import Artifact
from studio_runner.storage.access import Access
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.registry import Stores
from studio_runner.storage.transfer import Fetch, Upload, fetch_all, upload_all

BUCKET = "transfer"
ROUNDS = 3
SMALL = 64 << 10
SIDE_BY_SIDE = 16
PART = 16 << 20


class Tool(Protocol):
    """Copies the files of a directory to keys below a prefix, and back."""

    @property
    def name(self) -> str: ...
    def prepare(self, source: Path) -> None:
        """What is not part of copying; not timed."""
        ...

    def up(self, source: Path, prefix: str) -> None: ...
    def down(self, prefix: str, names: list[str], target: Path) -> None: ...


def run(scale: float) -> Iterator[Result]:
    with tempfile.TemporaryDirectory(prefix="bench-transfer-") as made, SeaweedS3() as server:
        server.create_bucket(BUCKET)
        root = Path(made)
        tools = [Ours(server), *others(server)]
        size = int(2048 * scale)
        _large(root / "large", size)
        yield from _measured(Race(server, tools, root), "large", "one object of", size, "MiB")
        count = max(200, int(2000 * scale))
        _small(root / "small", count)
        yield from _measured(Race(server, tools, root), "small", "objects of 64 KiB:", count, "objects")


def _large(directory: Path, megabytes: int) -> None:
    directory.mkdir()
    piece = random.Random(1).randbytes(1 << 20)
    with (directory / "large.bin").open("wb") as file:
        for _ in range(megabytes):
            file.write(piece)


def _small(directory: Path, count: int) -> None:
    directory.mkdir()
    source = random.Random(1)
    for number in range(count):
        (directory / f"{number:05}.bin").write_bytes(source.randbytes(SMALL))


@dataclass(frozen=True)
class Race:
    """Every tool in turn, with the same files."""

    server: SeaweedS3
    tools: list[Tool]
    root: Path

    def times(self, what: str) -> dict[tuple[str, str], list[float]]:
        """Seconds by tool and direction."""
        times: dict[tuple[str, str], list[float]] = {}
        for number in range(ROUNDS):
            for place in range(len(self.tools)):
                tool = self.tools[(number + place) % len(self.tools)]  # nobody is always the one after the same
                up, down = self._turn(tool, self.root / what, f"{what}-{number}-{place}")
                times.setdefault((tool.name, "up"), []).append(up)
                times.setdefault((tool.name, "down"), []).append(down)
        return times

    def _turn(self, tool: Tool, source: Path, prefix: str) -> tuple[float, float]:
        names = sorted(os.listdir(source))
        target = self.root / "target"
        tool.prepare(source)
        up = _timed(lambda: tool.up(source, prefix))
        down = _timed(lambda: tool.down(prefix, names, target))
        _same(source, target, names)
        shutil.rmtree(target)
        self._clear(prefix)
        os.sync()  # what one tool wrote is not written to the disk while the next one works
        return up, down

    def _clear(self, prefix: str) -> None:
        client = self.server.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        for page in pages:
            keys = [{"Key": one["Key"]} for one in page.get("Contents", [])]
            if keys:
                client.delete_objects(Bucket=BUCKET, Delete={"Objects": keys})
        client.close()


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _same(source: Path, target: Path, names: list[str]) -> None:
    for name in names:
        found = next(target.rglob(name))
        assert found.stat().st_size == (source / name).stat().st_size, f"{name} did not come back whole"


def _measured(race: Race, what: str, title: str, amount: int, unit: str) -> Iterator[Result]:
    times = race.times(what)
    for way in ("up", "down"):
        rates = {tool.name: [amount / seconds for seconds in times[tool.name, way]] for tool in race.tools}
        ours = rates.pop(Ours.name)
        medians = {name: statistics.median(values) for name, values in rates.items()}
        fastest = max(medians, key=lambda name: medians[name])
        value, bare = statistics.median(ours), medians[fastest]
        yield Result(
            name=f"{title} {amount:,}{' MiB' if unit == 'MiB' else ''}, {way}",
            value=value,
            unit="MiB/s" if unit == "MiB" else "/s",
            bare=bare,
            bare_name=fastest,
            ratio=value / bare,
            target=">= the fastest tool",
            met=value >= bare,
            detail=spread(ours) | medians,
        )


class Ours:
    """The store and the transfer that experiments use."""

    name = "ours"

    def __init__(self, server: SeaweedS3) -> None:
        self._endpoint = server.endpoint
        self._credentials = {
            "aws": {
                "access_key": server.access_key,
                "secret_access_key": server.secret_key,
                "region": server.region,
            }
        }

    def prepare(self, source: Path) -> None:
        """An artifact is a directory: each file gets one of its own, a hard link to it."""
        shutil.rmtree(self._made(source), ignore_errors=True)
        for path in source.iterdir():
            directory = self._made(source) / path.name
            directory.mkdir(parents=True)
            (directory / path.name).hardlink_to(path)

    def _made(self, source: Path) -> Path:
        return source.with_name(f"{source.name}-artifacts")

    def up(self, source: Path, prefix: str) -> None:
        asyncio.run(self._up(source, prefix))

    def down(self, prefix: str, names: list[str], target: Path) -> None:
        asyncio.run(self._down(prefix, names, target))

    async def _up(self, source: Path, prefix: str) -> None:
        async with Stores() as stores:
            directories = sorted(self._made(source).iterdir())
            await upload_all([self._upload(stores, prefix, directory) for directory in directories], [])

    def _upload(self, stores: Stores, prefix: str, directory: Path) -> Upload:
        artifact = self._artifact(prefix, directory.name)
        store, key = stores.open(artifact.location, Access(artifact.credentials))
        return Upload(artifact, store, key, directory)

    async def _down(self, prefix: str, names: list[str], target: Path) -> None:
        async with Stores() as stores:
            fetches = []
            for name in names:
                artifact = self._artifact(prefix, name)
                store, key = stores.open(artifact.location, Access(artifact.credentials))
                fetches.append(Fetch(artifact, store, key, target, None))
            await fetch_all(fetches, [], DiskBudget(None))

    def _artifact(self, prefix: str, name: str) -> Artifact:
        return Artifact.model_validate(
            {
                "label": name,
                "qualified": f"s3://{self._endpoint}/{BUCKET}/{prefix}/{name}",
                "mutable": False,
                "unpack": False,
                "credentials": self._credentials,
            }
        )


def others(server: SeaweedS3) -> list[Tool]:
    """The tools that are installed here."""
    found: list[Tool] = [Boto3(server)]
    with suppress(ImportError):
        found.append(Obstore(server))
    if program := shutil.which("rclone"):
        found.append(Rclone(server, program))
    return found


class Boto3:
    """What `aws s3` is made of."""

    name = "boto3"

    def __init__(self, server: SeaweedS3) -> None:
        from boto3.s3.transfer import TransferConfig  # noqa: PLC0415

        self._server = server
        self._config = TransferConfig(multipart_chunksize=PART, max_concurrency=8)

    def prepare(self, source: Path) -> None:
        """Nothing."""

    def up(self, source: Path, prefix: str) -> None:
        client = self._client()
        self._each(
            lambda name: client.upload_file(str(source / name), BUCKET, f"{prefix}/{name}", Config=self._config),
            sorted(os.listdir(source)),
        )
        client.close()

    def down(self, prefix: str, names: list[str], target: Path) -> None:
        client = self._client()
        target.mkdir()
        self._each(
            lambda name: client.download_file(BUCKET, f"{prefix}/{name}", str(target / name), Config=self._config),
            names,
        )
        client.close()

    def _client(self) -> Any:
        import boto3  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415

        return boto3.client(
            "s3",
            endpoint_url=self._server.url,
            aws_access_key_id=self._server.access_key,
            aws_secret_access_key=self._server.secret_key,
            region_name=self._server.region,
            config=Config(max_pool_connections=2 * SIDE_BY_SIDE, s3={"addressing_style": "path"}),
        )

    def _each(self, work: Callable[[str], None], names: list[str]) -> None:
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            list(pool.map(work, names))


class Obstore:
    """The Rust library, reading and writing files without anything in between."""

    name = "obstore"

    def __init__(self, server: SeaweedS3) -> None:
        from obstore.store import S3Store  # noqa: PLC0415

        self._store = S3Store(
            BUCKET,
            endpoint=server.url,
            access_key_id=server.access_key,
            secret_access_key=server.secret_key,
            region=server.region,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True, "timeout": "600s"},
        )

    def prepare(self, source: Path) -> None:
        """Nothing."""

    def up(self, source: Path, prefix: str) -> None:
        asyncio.run(
            self._all(lambda name: self._put(source / name, f"{prefix}/{name}"), sorted(os.listdir(source)))
        )

    def down(self, prefix: str, names: list[str], target: Path) -> None:
        target.mkdir()
        asyncio.run(self._all(lambda name: self._get(f"{prefix}/{name}", target / name), names))

    async def _all(self, work: Callable[[str], Any], names: list[str]) -> None:
        room = asyncio.Semaphore(SIDE_BY_SIDE)

        async def one(name: str) -> None:
            async with room:
                await work(name)

        await asyncio.gather(*(one(name) for name in names))

    async def _put(self, path: Path, key: str) -> None:
        await self._store.put_async(key, path, chunk_size=PART, max_concurrency=4)

    async def _get(self, key: str, path: Path) -> None:
        answer = await self._store.get_async(key)
        with path.open("wb") as file:
            async for piece in answer.stream(min_chunk_size=PART):
                file.write(piece)


class Rclone:
    """The program, tuned."""

    name = "rclone"

    def __init__(self, server: SeaweedS3, program: str) -> None:
        self._program = program
        settings = {
            "TYPE": "s3",
            "PROVIDER": "Other",
            "ENDPOINT": server.url,
            "ACCESS_KEY_ID": server.access_key,
            "SECRET_ACCESS_KEY": server.secret_key,
            "REGION": server.region,
            "CHUNK_SIZE": "16M",
            "UPLOAD_CONCURRENCY": "4",
            "NO_CHECK_BUCKET": "true",
            "DISABLE_CHECKSUM": "true",
        }
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            **{f"RCLONE_CONFIG_S3_{name}": value for name, value in settings.items()},
        }

    def prepare(self, source: Path) -> None:
        """Nothing."""

    def up(self, source: Path, prefix: str) -> None:
        self._copy(str(source), f"s3:{BUCKET}/{prefix}")

    def down(self, prefix: str, names: list[str], target: Path) -> None:  # noqa: ARG002
        self._copy(f"s3:{BUCKET}/{prefix}", str(target))

    def _copy(self, source: str, target: str) -> None:
        options = [
            f"--transfers={SIDE_BY_SIDE}",
            f"--checkers={SIDE_BY_SIDE}",
            "--multi-thread-streams=8",
            "--multi-thread-cutoff=32M",
            "--buffer-size=16M",
            "--s3-no-head",
            "--no-traverse",
            "--ignore-times",
            "--config=/dev/null",
            "--quiet",
        ]
        subprocess.run([self._program, "copy", *options, source, target], env=self._env, check=True)
