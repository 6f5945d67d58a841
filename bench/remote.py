"""RabbitMQ and S3 on loopback, a runner between them, and a client that publishes and looks."""

import asyncio
import contextlib
import io
import subprocess
import tarfile
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import aiormq
from aiormq.abc import AbstractChannel, AbstractConnection

from servers.rabbitmq import RabbitMQ
from servers.seaweedfs import SeaweedS3
from studio_runner.testing import MUTABLE, Installation, installation

EXCHANGE = "StudioML.topic"
QUEUE = "rmq_bench"
BUCKET, RECORDS = "bench", "bench-records"
PATIENCE = 120.0
Answer = TypeVar("Answer")


class Publisher:
    """Publishes as existing clients do, with confirms, on one channel of a thread of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="publisher", daemon=True)
        self._channel: AbstractChannel

    def __enter__(self) -> Self:
        self._thread.start()
        self._connection = self._run(self._connect())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._connection.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def declare(self, queue: str) -> None:
        self._run(self._declare(queue))

    def publish(self, queue: str, bodies: Sequence[bytes]) -> float:
        """The Unix time before the first of them was sent; returns when the broker has them all."""
        started = time.time()
        self._run(self._publish(queue, bodies))
        return started

    def _run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    async def _connect(self) -> AbstractConnection:
        connection = await aiormq.connect(self._url)
        self._channel = await connection.channel()
        await self._channel.exchange_declare(EXCHANGE, exchange_type="topic", durable=True, auto_delete=True)
        return connection

    async def _declare(self, queue: str) -> None:
        await self._channel.queue_declare(queue, durable=True)
        await self._channel.queue_bind(queue, EXCHANGE, f"StudioML.{queue}")

    async def _publish(self, queue: str, bodies: Sequence[bytes]) -> None:
        properties = aiormq.spec.Basic.Properties(
            content_type="application/json", app_id="studioml", delivery_mode=2
        )
        async with asyncio.TaskGroup() as group:
            for body in bodies:
                sent = self._channel.basic_publish(
                    body, exchange=EXCHANGE, routing_key=f"StudioML.{queue}", properties=properties
                )
                group.create_task(_confirmed(sent))


async def _confirmed(sent: Coroutine[Any, Any, object]) -> None:
    await sent


class Cluster:
    """One node, one bucket, the directories of one runner."""

    def __init__(self, made: Installation, broker: RabbitMQ, store: SeaweedS3, publisher: Publisher) -> None:
        self.made, self.broker, self.store, self.publisher = made, broker, store, publisher
        self.objects = store.client()

    def workspace(self, script: str) -> str:
        """The address of an archive in which `main.py` is this script."""
        packed = self.made.workspace({"main.py": script})
        self.objects.put_object(Bucket=BUCKET, Key=f"blobstore/{packed.name}", Body=packed.read_bytes())
        return self._address(f"blobstore/{packed.name}")

    def request(self, workspace: str, **experiment: Any) -> tuple[str, bytes]:
        """A key and its request, with all artifacts in S3."""
        key = f"{time.time_ns()}"
        artifacts = {label: self._artifact(self._address(_stored(key, label)), mutable=True) for label in MUTABLE}
        artifacts["workspace"] = self._artifact(workspace, mutable=False)
        fields = {"key": key, "artifacts": artifacts, **experiment}
        _, body = self.made.request(self.made.home, config=self._config(), **fields)
        return key, body

    def options(self) -> Sequence[str]:
        """Of a daemon that serves the queues."""
        amqp = ("--amqp-url", self.broker.url(), "--amqp-mgt-url", self.broker.management_url)
        return (*amqp, "--log-level", "warning")

    @contextmanager
    def running(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """A daemon that has run one experiment of the queue already."""
        with self.made.daemon(*self.options(), *options) as daemon:
            key, body = self.request(self.workspace("print('warm')"))
            self.publisher.publish(QUEUE, [body])
            self.wait([key])
            yield daemon

    def wait(self, keys: Sequence[str]) -> float:
        """When the last of the results was found. Looks rarely: whoever looks takes the processor from what is
        measured."""
        missing = set(keys)
        deadline = time.monotonic() + PATIENCE + len(keys)
        while missing:
            time.sleep(0.05 if len(keys) == 1 else 0.25)
            missing -= self._finished() if len(keys) > 1 else self._finished_one(keys[0])
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(missing)} experiments have no results; {self.made.log()}")
        return time.time()

    def output(self, key: str) -> str:
        answer = self.objects.get_object(Bucket=BUCKET, Key=_stored(key, "output"))
        with tarfile.open(fileobj=io.BytesIO(answer["Body"].read())) as archive:
            member = next(member for member in archive if member.name.removeprefix("./") == "output")
            content = archive.extractfile(member)
            return content.read().decode() if content else ""

    def _finished(self) -> set[str]:
        pages = self.objects.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="experiments/")
        found = (one["Key"] for page in pages for one in page.get("Contents", ()))
        return {name.split("/")[1] for name in found if name.endswith("/_results.tar")}

    def _finished_one(self, key: str) -> set[str]:
        from botocore.exceptions import ClientError  # noqa: PLC0415  # as slow to load as boto3

        with contextlib.suppress(ClientError):
            self.objects.head_object(Bucket=BUCKET, Key=_stored(key, "_results"))
            return {key}
        return set()

    def _address(self, name: str) -> str:
        return f"s3://{self.store.endpoint}/{BUCKET}/{name}"

    def _artifact(self, address: str, *, mutable: bool) -> dict[str, Any]:
        return {"qualified": address, "mutable": mutable, "unpack": True, "credentials": self._credentials()}

    def _credentials(self) -> dict[str, Any]:
        return {"aws": {"access_key": self.store.access_key, "secret_access_key": self.store.secret_key}}

    def _config(self) -> dict[str, Any]:
        section = {"type": "s3", "endpoint": self.store.url, "credentials": self._credentials()}
        return {"database": section | {"bucket": RECORDS}, "storage": section | {"bucket": BUCKET}}


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Up while entered; the queue `rmq_bench` is there."""
    with ExitStack() as stack:
        broker = RabbitMQ()
        stack.callback(broker.close)
        broker.launch()
        store = stack.enter_context(SeaweedS3())
        for bucket in (BUCKET, RECORDS):
            store.create_bucket(bucket)
        made = stack.enter_context(installation())
        broker.wait()
        publisher = stack.enter_context(Publisher(broker.url()))
        publisher.declare(QUEUE)
        ready = Cluster(made, broker, store, publisher)
        stack.callback(ready.objects.close)
        yield ready


def _stored(key: str, label: str) -> str:
    return f"experiments/{key}/{label}.tar"
