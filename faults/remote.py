"""RabbitMQ and S3 as a site, every way to them through a proxy."""

import json
import time
import urllib.error
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

from faults.experiment import Addresses
from faults.site import Server
from servers.proxy import Proxy
from servers.rabbitmq import RabbitMQ
from servers.seaweedfs import SeaweedS3

EXCHANGE = "StudioML.topic"
VHOST = "/"
STORE, META = "faults-store", "faults-meta"
IMPATIENT = "consumer_timeout = 15000\n"
"""Shorter than the long experiments, so that a lease which stands on one unacknowledged delivery is broken."""
TICKS = "[{rabbit, [{channel_tick_interval, 2000}]}].\n"
BROKER, S3 = "broker", "store"
FIGURES_LAG = 15.0
Answer = TypeVar("Answer")


class BucketObjects:
    """The two buckets, seen without a proxy; records are in a bucket of their own."""

    def __init__(self, server: SeaweedS3) -> None:
        self._client = server.client()

    def versions(self) -> Mapping[str, str]:
        records = self._listed(META, "experiments/")
        return self._listed(STORE, "experiments/") | {f"db/{name}": etag for name, etag in records.items()}

    def read(self, name: str) -> bytes:
        from botocore.exceptions import ClientError  # noqa: PLC0415  # as slow to load as boto3

        bucket, key = _place(name)
        try:
            body = self._ask(lambda: bytes(self._client.get_object(Bucket=bucket, Key=key)["Body"].read()))
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                raise KeyError(name) from error
            raise OSError(str(error)) from error
        return body

    def write(self, name: str, content: bytes) -> None:
        bucket, key = _place(name)
        self._ask(lambda: self._client.put_object(Bucket=bucket, Key=key, Body=content))

    def _listed(self, bucket: str, prefix: str) -> dict[str, str]:
        from botocore.exceptions import ClientError  # noqa: PLC0415

        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        try:
            found = self._ask(lambda: [one for page in pages for one in page.get("Contents", ())])
        except ClientError as error:
            raise OSError(str(error)) from error
        return {one["Key"]: one["ETag"] for one in found}

    @staticmethod
    def _ask(request: Callable[[], Answer]) -> Answer:
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415

        try:
            return request()
        except BotoCoreError as error:
            raise OSError(str(error)) from error

    def close(self) -> None:
        self._client.close()


def _place(name: str) -> tuple[str, str]:
    return (META, name.removeprefix("db/")) if name.startswith("db/") else (STORE, name)


class RemoteSite:
    """A RabbitMQ node and an S3 server. Each runner has its own links to the broker; the store has one, because its
    address is part of the messages."""

    queues: Sequence[str] = ("rmq_faults_a", "rmq_faults_b")

    def __init__(self, runners: int) -> None:
        self._runners = runners
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            self._broker = RabbitMQ(conf=IMPATIENT, advanced=TICKS)
            self._stack.callback(self._broker.close)
            self._broker.launch()
            self._store = self._stack.enter_context(SeaweedS3())
            for bucket in (STORE, META):
                self._store.create_bucket(bucket)
            self.objects = BucketObjects(self._store)
            self._stack.callback(self.objects.close)
            self._broker.wait()
            self._declare()
            self.servers: Mapping[str, Server] = {BROKER: self._broker, S3: self._store}
            self.links: Mapping[str, Sequence[Proxy]] = self._linked()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def addresses(self) -> Addresses:
        endpoint = f"127.0.0.1:{self.links[S3][0].port}"
        credentials = {"aws": {"access_key": self._store.access_key, "secret_access_key": self._store.secret_key}}
        section = {"type": "s3", "endpoint": f"http://{endpoint}", "credentials": credentials}
        config = {"database": section | {"bucket": META}, "storage": section | {"bucket": STORE}}
        return Addresses(f"s3://{endpoint}/{STORE}", STORE, credentials, config)

    def options(self, runner: int) -> Sequence[str]:
        messages, management = (proxy.port for proxy in self.links[_link(runner)])
        return (
            *("--amqp-url", f"amqp://guest:guest@127.0.0.1:{messages}/"),
            *("--amqp-mgt-url", f"http://guest:guest@127.0.0.1:{management}"),
        )

    def publish(self, queue: str, body: bytes) -> None:
        message = {
            "routing_key": f"StudioML.{queue}",
            "payload": body.decode(),
            "payload_encoding": "string",
            "properties": {"content_type": "application/json", "app_id": "studioml", "delivery_mode": 2},
        }
        path = f"/api/exchanges/{_quoted(VHOST)}/{EXCHANGE}/publish"
        answer = json.loads(self._broker.manage("POST", path, json.dumps(message).encode()))
        if not answer["routed"]:
            raise OSError(f"the exchange {EXCHANGE} knows no queue {queue}")

    def remaining(self) -> Iterator[str]:
        """Fetched and put back: the management API's own figures are some seconds old."""
        for name in [str(queue["name"]) for queue in self._listed()]:
            for letter in self._peek(name):
                yield f"{name}: {letter}"
        yield from self._held()

    def _held(self) -> Iterator[str]:
        """Messages in the hands of somebody, once the figures have caught up with the end of the runners."""
        deadline = time.monotonic() + FIGURES_LAG
        while held := {queue["name"]: count for queue in self._listed() if (count := _unacknowledged(queue))}:
            if time.monotonic() > deadline:
                yield from (f"{name}: {count} held" for name, count in held.items())
                return
            time.sleep(1.0)

    def _listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self._broker.manage("GET", f"/api/queues/{_quoted(VHOST)}"))
        return found

    def _peek(self, queue: str) -> Iterator[str]:
        wish = {"count": 1000, "ackmode": "ack_requeue_true", "encoding": "auto", "truncate": 4000}
        path = f"/api/queues/{_quoted(VHOST)}/{_quoted(queue)}/get"
        for found in json.loads(self._broker.manage("POST", path, json.dumps(wish).encode())):
            yield f"{_key(found['payload'])} {found['properties'].get('headers', {})}"

    def _declare(self) -> None:
        """As the existing client does it, for messages that survive the broker."""
        vhost = _quoted(VHOST)
        exchange = {"type": "topic", "durable": True, "auto_delete": True}
        self._broker.manage("PUT", f"/api/exchanges/{vhost}/{EXCHANGE}", json.dumps(exchange).encode())
        for queue in self.queues:
            self._broker.manage("PUT", f"/api/queues/{vhost}/{queue}", b'{"durable": true}')
            binding = json.dumps({"routing_key": f"StudioML.{queue}"}).encode()
            self._broker.manage("POST", f"/api/bindings/{vhost}/e/{EXCHANGE}/q/{queue}", binding)

    def _linked(self) -> dict[str, Sequence[Proxy]]:
        management = self._broker.management_port or 0
        links: dict[str, Sequence[Proxy]] = {S3: (self._proxy(self._store.port),)}
        for runner in range(self._runners):
            links[_link(runner)] = (self._proxy(self._broker.port), self._proxy(management))
        return links

    def _proxy(self, port: int) -> Proxy:
        return self._stack.enter_context(Proxy(port))


def _link(runner: int) -> str:
    return f"broker of runner {runner}"


def _unacknowledged(queue: dict[str, Any]) -> int:
    return int(queue.get("messages_unacknowledged", 0))


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _key(payload: str) -> str:
    _, found, rest = payload.partition('"key": "')
    return rest.partition('"')[0] if found else payload[:80]
