"""Who holds a message of an SQS queue, and what becomes of it when he dies or takes very long."""

import asyncio
import json
import os
import signal
import sys
import time
import uuid
from contextlib import asynccontextmanager
from urllib.request import Request, urlopen

import boto3
import pytest

from studio_runner.errors import LeaseLostError, QueueDeletedError
from studio_runner.queues.sqs import SqsBroker, SqsOptions
from studio_runner.queues.sqs.listing import HELD

PATIENCE = 90.0
CREDENTIALS = "[default]\naws_access_key_id = testing\naws_secret_access_key = testing\nregion = us-east-1\n"


class Gate:
    """Open for everything."""

    releases = 0

    def __init__(self):
        self.asked = []

    def admit(self, queue, body):
        self.asked.append(body)
        return self

    def release(self):
        """Nothing was reserved."""

    def awaits(self, queue, body):
        return False

    async def opened(self):
        """It is."""

    async def released(self, seen):
        await asyncio.Event().wait()


@pytest.fixture
def client(sqs):
    """For what other people do with queues; the server has none yet."""
    urlopen(Request(f"{sqs.url}/moto-api/reset", method="POST")).close()
    client = boto3.client(
        "sqs", endpoint_url=sqs.url, region_name="us-east-1", aws_access_key_id="t", aws_secret_access_key="t"
    )
    yield client
    client.close()


@pytest.fixture
def queue(client):
    name = f"sqs_{uuid.uuid4().hex[:12]}"
    client.create_queue(QueueName=name)
    return name


@pytest.fixture
def clock():
    return MovableClock()


@pytest.fixture
def opened(sqs, tmp_path):
    """Opens brokers, each as a runner of its own."""
    (tmp_path / "credentials").write_text(CREDENTIALS)

    @asynccontextmanager
    async def open_broker(**options):
        chosen = {"lease": 30.0, "wait": 1, "tidy": 0.1} | options
        clock = chosen.pop("clock", time.monotonic)
        async with SqsBroker(SqsOptions(certs=tmp_path, endpoint=sqs.url, **chosen), "test", clock) as broker:
            yield broker

    return open_broker


async def taken(broker, queue):
    """The next message, by a consumer that ends with it."""
    deliveries = broker.consume(queue, Gate())
    try:
        async with asyncio.timeout(PATIENCE):
            return await anext(deliveries)
    finally:
        await deliveries.aclose()


async def until(happened):
    async with asyncio.timeout(PATIENCE):
        while not await happened():
            await asyncio.sleep(0.05)


def counts(client, name):
    url = client.get_queue_url(QueueName=name)["QueueUrl"]
    found = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return int(found["ApproximateNumberOfMessages"]), int(found["ApproximateNumberOfMessagesNotVisible"])


class MovableClock:
    """A clock that can be put forward."""

    def __init__(self):
        self.ahead = 0.0

    def __call__(self):
        return time.monotonic() + self.ahead


LONG = {"lease": 10.0, "ceiling": 100.0}


async def renewed(delivery, clock, seconds):
    """As its watcher does, while so much time passes."""
    for _ in range(0, seconds, 5):
        clock.ahead += 5
        await delivery.extend()


async def test_a_message_whose_lease_ran_out_is_adopted_by_the_runner_that_still_works_on_it(opened, queue, client):
    gate = Gate()
    async with opened(lease=2) as broker:
        await broker.publish(queue, b"{}")
        deliveries = broker.consume(queue, gate)
        delivery = await anext(deliveries)
        await delivery.extend()
        before = delivery._receipt
        more = asyncio.ensure_future(anext(deliveries))
        await until(lambda: asyncio.sleep(0, delivery._receipt is not before))
        await delivery.extend()
        assert not more.done()
        assert gate.asked == [b"{}"]
        await delivery.ack()
        more.cancel()
        await asyncio.gather(more, return_exceptions=True)
    assert counts(client, queue) == (0, 0)


async def test_a_lease_that_nobody_renewed_is_lost(opened, queue):
    async with opened(lease=1) as broker:
        await broker.publish(queue, b"{}")
        delivery = await taken(broker, queue)
        await asyncio.sleep(1.1)
        with pytest.raises(LeaseLostError):
            await delivery.extend()
        with pytest.raises(LeaseLostError):
            await delivery.ack()
        again = await taken(broker, queue)
        assert (again.attempts, again.redelivered) == (1, True)


async def test_an_experiment_longer_than_the_ceiling_is_held_all_the_time(opened, queue, client, clock):
    async with opened(**LONG, clock=clock) as broker, opened() as other:
        await broker.publish(queue, b'{"experiment": {"key": "long"}}')
        delivery = await taken(broker, queue)
        thief = asyncio.ensure_future(taken(other, queue))
        await renewed(delivery, clock, 250)
        assert not thief.done()
        assert counts(client, queue) == (0, 0)
        assert counts(client, HELD) == (0, 1)
        await delivery.ack()
        assert counts(client, HELD) == (0, 0)
        thief.cancel()
        await asyncio.gather(thief, return_exceptions=True)


async def test_a_held_message_comes_home_when_its_holder_dies(opened, queue, client, clock):
    async with opened(**LONG, clock=clock) as broker:
        await broker.publish(queue, b"{}")
        delivery = await taken(broker, queue)
        await renewed(delivery, clock, 100)
        assert counts(client, HELD) == (0, 1)
    async with opened() as successor:
        again = await taken(successor, queue)
        assert (again.body, again.attempts, again.redelivered) == (b"{}", 1, True)
        await until(lambda: asyncio.sleep(0, counts(client, HELD) == (0, 0)))


@pytest.mark.parametrize("charge", [True, False])
async def test_a_held_message_goes_back_to_its_own_queue(opened, queue, client, clock, charge):
    async with opened(**LONG, clock=clock) as broker:
        await broker.publish(queue, b"{}")
        delivery = await taken(broker, queue)
        await renewed(delivery, clock, 100)
        await delivery.requeue(charge=charge)
        assert counts(client, HELD) == (0, 0)
        again = await taken(broker, queue)
        assert (again.queue, again.attempts, again.redelivered) == (queue, int(charge), True)


async def test_deleting_a_queue_ends_its_experiments_after_a_while(opened, queue, client):
    async with opened(cool_down=1) as broker:
        await broker.publish(queue, b"{}")
        delivery = await taken(broker, queue)
        client.delete_queue(QueueUrl=client.get_queue_url(QueueName=queue)["QueueUrl"])
        await delivery.extend()
        await asyncio.sleep(1)
        with pytest.raises(QueueDeletedError, match=queue):
            await delivery.extend()
        await delivery.ack()


async def test_two_runners_share_a_queue_and_take_each_message_once(opened, queue, client):
    wanted = {f"message {number}".encode() for number in range(50)}
    found = []

    async def work(broker):
        async for delivery in broker.consume(queue, Gate()):
            found.append(delivery.body)
            await delivery.ack()

    async with opened() as one, opened() as other:
        for body in sorted(wanted):
            await one.publish(queue, body)
        workers = [asyncio.ensure_future(work(broker)) for broker in (one, other)]
        await until(lambda: asyncio.sleep(0, len(found) >= len(wanted)))
        await asyncio.sleep(0.5)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    assert sorted(found) == sorted(wanted)
    assert counts(client, queue) == (0, 0)


HOLDER = """
import asyncio, sys
from pathlib import Path
from studio_runner.queues.sqs import SqsBroker, SqsOptions

class Gate:
    releases = 0
    def admit(self, queue, body):
        return self
    def release(self):
        pass
    def awaits(self, queue, body):
        return False

    async def opened(self):
        pass
    async def released(self, seen):
        await asyncio.Event().wait()

async def main(certs, endpoint, queue):
    async with SqsBroker(SqsOptions(certs=Path(certs), endpoint=endpoint, lease=2, wait=1), "holder") as broker:
        async for delivery in broker.consume(queue, Gate()):
            while True:
                await delivery.extend()
                print("holding", delivery.attempts, flush=True)
                await asyncio.sleep(0.5)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_what_a_killed_runner_held_comes_back(sqs, tmp_path, opened, queue):
    async with opened() as broker:
        await broker.publish(queue, b"{}")
        holder = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HOLDER, str(tmp_path), sqs.url, queue, stdout=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(PATIENCE):
                assert await holder.stdout.readline() == b"holding 0\n"
        finally:
            os.kill(holder.pid, signal.SIGKILL)
            await holder.wait()
        again = await taken(broker, queue)
        assert (again.body, again.attempts) == (b"{}", 1)


async def test_a_consumer_that_ends_while_it_waits_takes_nothing_with_it(opened, queue):
    async with opened(wait=3) as broker:
        first = asyncio.ensure_future(taken(broker, queue))
        await asyncio.sleep(1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await broker.publish(queue, b"{}")
        delivery = await taken(broker, queue)
        assert (delivery.attempts, delivery.redelivered) == (0, False)


async def test_a_broker_that_ends_gives_back_what_its_last_poll_brings(opened, queue, client):
    async with opened(wait=1) as broker, opened() as other:
        first = asyncio.ensure_future(taken(other, queue))
        await asyncio.sleep(0.7)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await broker.publish(queue, json.dumps({"a": 1}).encode())
        await other.__aexit__(None, None, None)
        delivery = await taken(broker, queue)
        assert (delivery.body, delivery.attempts) == (b'{"a": 1}', 0)
