"""Kinds of SQS queues, their dead letters, and what a runner says when SQS cannot be used."""

import asyncio
import json
import os
import time
import uuid
from contextlib import asynccontextmanager
from email.utils import formatdate
from urllib.request import Request, urlopen

import boto3
import pytest
from aiohttp import web

from studio_runner.errors import BrokerError
from studio_runner.queues.sqs import SqsBroker, SqsOptions
from studio_runner.queues.sqs.listing import dead_name

PATIENCE = 90.0
SECRET = "verysecretkey"
CREDENTIALS = f"[default]\naws_access_key_id = AKIATESTING\naws_secret_access_key = {SECRET}\nregion = us-east-1\n"


class Gate:
    """Open; admits what it wants, and can be told that something was given back."""

    def __init__(self, wanted=lambda _: True):
        self.wanted = wanted
        self.asked = []
        self.releases = 0
        self._changed = asyncio.Event()

    def admit(self, queue, body):
        self.asked.append(body)
        return self if self.wanted(body) else None

    def release(self):
        """Nothing was reserved."""

    def awaits(self, queue, body):
        return False

    async def opened(self):
        """It is."""

    async def released(self, seen):
        while self.releases == seen:
            self._changed.clear()
            await self._changed.wait()

    def give_back(self):
        self.releases += 1
        self._changed.set()


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
def made(client):
    """Makes queues; returns their names."""

    def make(ending="", **attributes):
        name = f"sqs_{uuid.uuid4().hex[:12]}{ending}"
        client.create_queue(QueueName=name, Attributes=attributes)
        return name

    return make


@pytest.fixture
def certs(tmp_path):
    (tmp_path / "credentials").write_text(CREDENTIALS)
    return tmp_path


@pytest.fixture
def opened(sqs, certs):
    """Opens brokers, each as a runner of its own."""

    @asynccontextmanager
    async def open_broker(**options):
        chosen = {"certs": certs, "endpoint": sqs.url, "wait": 1, "tidy": 0.1} | options
        clock = chosen.pop("clock", time.monotonic)
        async with SqsBroker(SqsOptions(**chosen), "test", clock) as broker:
            yield broker

    return open_broker


async def taken(broker, queue, gate=None):
    deliveries = broker.consume(queue, gate or Gate())
    try:
        async with asyncio.timeout(PATIENCE):
            return await anext(deliveries)
    finally:
        await deliveries.aclose()


def url_of(client, name):
    return client.get_queue_url(QueueName=name)["QueueUrl"]


def redrive(client, target, receives):
    arn = client.get_queue_attributes(QueueUrl=url_of(client, target), AttributeNames=["QueueArn"])
    policy = {"deadLetterTargetArn": arn["Attributes"]["QueueArn"], "maxReceiveCount": receives}
    return {"RedrivePolicy": json.dumps(policy)}


def inside(client, name):
    found = client.receive_message(
        QueueUrl=url_of(client, name), MaxNumberOfMessages=10, VisibilityTimeout=0, MessageAttributeNames=["All"]
    )
    return [message["Body"] for message in found.get("Messages", ())]


# -- FIFO ---------------------------------------------------------------------------------------------------------


async def test_a_fifo_queue_delivers_a_group_in_order(opened, made, client):
    queue = made(".fifo", FifoQueue="true")
    for number in range(3):
        client.send_message(
            QueueUrl=url_of(client, queue),
            MessageBody=str(number),
            MessageGroupId="one",
            MessageDeduplicationId=str(number),
        )
    async with opened() as broker:
        for number in range(3):
            delivery = await taken(broker, queue)
            assert (delivery.body, delivery.attempts) == (str(number).encode(), 0)
            await delivery.requeue()
            delivery = await taken(broker, queue)
            assert (delivery.body, delivery.attempts) == (str(number).encode(), 1)
            await delivery.ack()


async def test_what_goes_back_uncharged_to_a_fifo_queue_keeps_its_place_and_its_count(opened, made):
    queue = made(".fifo", FifoQueue="true")
    async with opened() as broker:
        await broker.publish(queue, b"one")
        for _ in range(3):
            delivery = await taken(broker, queue)
            assert delivery.attempts == 0
            await delivery.requeue(charge=False)
        gate = Gate(lambda _: gate.releases > 0)
        waiting = asyncio.ensure_future(taken(broker, queue, gate))
        async with asyncio.timeout(PATIENCE):
            while not gate.asked:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)
        assert gate.asked == [b"one"]
        gate.give_back()
        assert (await waiting).attempts == 0


async def test_messages_published_to_a_fifo_queue_run_side_by_side_and_equal_ones_are_not_dropped(opened, made):
    queue = made(".fifo", FifoQueue="true", ContentBasedDeduplication="false")
    async with opened() as broker:
        for body in (b"one", b"other"):
            await broker.publish(queue, body)
        first, second = await taken(broker, queue), await taken(broker, queue)
        assert {first.body, second.body} == {b"one", b"other"}
        await first.ack()
        await broker.publish(queue, first.body)
        assert (await taken(broker, queue)).body == first.body


async def test_an_experiment_of_a_fifo_queue_is_held_beyond_the_ceiling(opened, made):
    queue, ahead = made(".fifo", FifoQueue="true"), [0.0]
    async with opened(ceiling=100, clock=lambda: time.monotonic() + ahead[0]) as broker:
        await broker.publish(queue, b"{}")
        delivery = await taken(broker, queue)
        for _ in range(15):
            ahead[0] += 10
            await delivery.extend()
        assert (await broker.status(queue)).claimed == 0
        await delivery.requeue(reason="it had to go")
        assert (await taken(broker, queue)).attempts == 1


# -- dead letters -------------------------------------------------------------------------------------------------


async def test_dead_letters_go_where_the_redrive_policy_says(opened, made, client):
    target = made()
    queue = made(**redrive(client, target, 5))
    async with opened() as broker:
        await broker.publish(queue, b"bad")
        delivery = await taken(broker, queue)
        await delivery.dead_letter("it is no good")
        assert inside(client, target) == ["bad"]
        [letter] = await broker.dead_letters(queue)
        assert (letter.reason, letter.attempts, letter.body) == ("it is no good", 1, b"bad")
        assert await broker.revive(queue) == 1
        assert inside(client, target) == []
        assert (await taken(broker, queue)).attempts == 0


async def test_failures_count_for_the_redrive_policy(opened, made, client):
    target = made()
    queue = made(**redrive(client, target, 2))
    async with opened() as broker:
        await broker.publish(queue, b"poor")
        delivery = await taken(broker, queue)
        await delivery.requeue(reason="no store")
        delivery = await taken(broker, queue)
        await delivery.requeue(reason="no store again")
        [letter] = await broker.dead_letters(queue)
        assert (letter.reason, letter.history) == ("no store again", ("no store", "no store again"))
        assert (await broker.status(queue)).waiting == 0


async def test_being_refused_or_given_back_does_not_count_for_the_redrive_policy(opened, made, client):
    target = made()
    queue = made(**redrive(client, target, 2))
    async with opened() as broker:
        await broker.publish(queue, b"big")
        for _ in range(4):
            await (await taken(broker, queue)).requeue(charge=False)
            gate = Gate(lambda _: False)
            refusing = asyncio.ensure_future(taken(broker, queue, gate))
            async with asyncio.timeout(PATIENCE):
                while not gate.asked:
                    await asyncio.sleep(0.02)
            refusing.cancel()
            await asyncio.gather(refusing, return_exceptions=True)
        assert (await taken(broker, queue)).attempts == 0
        assert inside(client, target) == []


async def test_a_message_that_sqs_itself_set_aside_is_shown(opened, made, client):
    target = made()
    queue = made(**redrive(client, target, 1))
    client.send_message(QueueUrl=url_of(client, queue), MessageBody="killer")
    client.receive_message(QueueUrl=url_of(client, queue), VisibilityTimeout=0)
    client.receive_message(QueueUrl=url_of(client, queue), VisibilityTimeout=0)
    async with opened() as broker:
        [letter] = await broker.dead_letters(queue)
        assert letter.body == b"killer"
        assert "redrive policy" in letter.reason


async def test_without_a_redrive_policy_dead_letters_have_a_queue_that_nobody_serves(opened, made, client):
    queue = made()
    async with opened() as broker:
        await broker.publish(queue, b"bad")
        await (await taken(broker, queue)).dead_letter("no")
        assert inside(client, dead_name(queue)) == ["bad"]
        assert list(await broker.queues()) == [queue]


async def test_a_dead_letter_has_its_history(opened, made):
    queue = made()
    async with opened() as broker, opened() as other:
        await broker.publish(queue, b"poor")
        await (await taken(broker, queue)).requeue(0.1, reason="the store was away")
        await (await taken(other, queue)).requeue(reason="the index was away")
        delivery = await taken(broker, queue)
        assert delivery.attempts == 2
        await delivery.dead_letter("three times is enough")
        [letter] = await other.dead_letters(queue)
        assert letter.reason == "three times is enough"
        assert letter.history == ("the store was away", "the index was away")
        assert letter.attempts == 3


async def test_a_dead_letter_of_a_queue_that_was_deleted_is_kept(opened, made, client):
    queue = made()
    async with opened() as broker:
        await broker.publish(queue, b"bad")
        delivery = await taken(broker, queue)
        client.delete_queue(QueueUrl=url_of(client, queue))
        await delivery.dead_letter("no")
        assert inside(client, dead_name(queue)) == ["bad"]


async def test_attributes_of_others_stay_with_their_message(opened, made, client):
    queue = made()
    attributes = {
        "trace": {"DataType": "String", "StringValue": "abc"},
        "blob": {"DataType": "Binary", "BinaryValue": b"\x00\x01"},
    }
    client.send_message(QueueUrl=url_of(client, queue), MessageBody="{}", MessageAttributes=attributes)
    async with opened() as broker:
        await (await taken(broker, queue)).requeue(reason="once more")
        found = client.receive_message(QueueUrl=url_of(client, queue), MessageAttributeNames=["trace", "blob"])
        [message] = found["Messages"]
        assert message["MessageAttributes"] == attributes


# -- accounts and addresses ---------------------------------------------------------------------------------------


async def test_every_profile_of_the_directory_is_served(opened, sqs, client, tmp_path):
    secret = tmp_path / "team" / "..2026_11_22"
    secret.mkdir(parents=True)
    (secret / "credentials").write_text(
        "[default]\naws_access_key_id=a\naws_secret_access_key=b\n[far]\naws_access_key_id=c\naws_secret_access_key=d\n"
    )
    (secret / "config").write_text("[default]\nregion=us-east-1\n[profile far]\nregion=eu-west-1\n")
    (tmp_path / "team" / "..data").symlink_to(secret.name)
    for name in ("credentials", "config"):
        (tmp_path / "team" / name).symlink_to(f"..data/{name}")
    names = []
    for region in ("us-east-1", "eu-west-1"):
        names.append(f"sqs_{region}")
        there = boto3.client(
            "sqs", endpoint_url=sqs.url, region_name=region, aws_access_key_id="t", aws_secret_access_key="t"
        )
        there.create_queue(QueueName=names[-1])
        there.close()
    async with opened(certs=tmp_path / "team") as broker:
        assert sorted(await broker.queues()) == sorted(names)
        for name in names:
            await broker.publish(name, name.encode())
            assert (await taken(broker, name)).body == name.encode()


async def test_without_a_directory_the_ordinary_chain_is_used(opened, made, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTING")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    queue = made()
    async with opened(certs=None, region="us-east-1") as broker:
        assert list(await broker.queues()) == [queue]


async def test_queues_are_listed_by_prefix_and_changes_are_noticed(opened, made, client):
    client.create_queue(QueueName="other_queue")
    first = made()
    async with opened() as broker:
        assert list(await broker.queues()) == [first]
        change = asyncio.ensure_future(broker.changed())
        await asyncio.sleep(0.3)
        assert not change.done()
        second = made()
        async with asyncio.timeout(PATIENCE):
            await change
        assert set(await broker.queues()) == {first, second}


async def test_a_message_that_is_too_large_is_refused_with_its_size(opened, made):
    queue = made()
    async with opened() as broker:
        with pytest.raises(BrokerError, match=r"1500000 bytes .* too large"):
            await broker.publish(queue, b"x" * 1_500_000)
        assert (await broker.status(queue)).waiting == 0


async def test_a_queue_may_have_a_smaller_limit(opened, made):
    queue = made(MaximumMessageSize="2048")
    async with opened() as broker:
        with pytest.raises(BrokerError, match="too large"):
            await broker.publish(queue, b"x" * 4096)


@asynccontextmanager
async def refusing(code, message, date=None):
    """A service that refuses every request in AWS's words."""

    async def answer(_request):
        body = json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": message})
        headers = {"Date": date or formatdate(usegmt=True), "x-amzn-query-error": f"{code};Sender"}
        return web.Response(status=403, text=body, headers=headers, content_type="application/x-amz-json-1.0")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("code", "ahead", "said"),
    [
        ("InvalidClientTokenId", 0, "access key is not known"),
        ("SignatureDoesNotMatch", 0, "secret key does not belong"),
        ("SignatureDoesNotMatch", 3600, r"clock is 3\d\d\d s ahead of"),
        ("RequestExpired", -3600, r"clock is 3\d\d\d s behind"),
        ("AccessDenied", 0, "not allowed"),
        ("ExpiredToken", 0, "token has expired"),
    ],
)
async def test_a_refusal_says_what_it_is_and_keeps_the_secret(opened, code, ahead, said):
    date = formatdate(time.time() - ahead, usegmt=True)
    async with refusing(code, "no", date) as endpoint, opened(endpoint=endpoint) as broker:
        with pytest.raises(BrokerError, match=said) as caught:
            await broker.queues()
        text = f"{caught.value} {caught.value.hint}"
        assert endpoint in text
        assert "AKIA..." in text
        assert SECRET not in text
        assert "AKIATESTING" not in text


async def test_a_name_without_an_address_is_told_from_a_service_that_is_away(opened):
    async with opened(endpoint="http://nowhere.invalid") as broker:
        with pytest.raises(BrokerError, match="has no address"):
            await broker.queues()
    async with opened(endpoint="http://127.0.0.1:9") as broker:
        with pytest.raises(BrokerError, match="no answer"):
            await broker.queues()


# -- many queues --------------------------------------------------------------------------------------------------


def consumers(broker, queues, gate):
    """Consumes all queues at once; the list is of the queues whose messages the gate admitted."""
    found = []

    async def work(queue):
        async for delivery in broker.consume(queue, gate):
            found.append(delivery.queue)
            await delivery.ack()

    workers = [asyncio.ensure_future(work(queue)) for queue in queues]
    return found, workers


async def ended(workers):
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)


async def test_more_queues_than_long_polls_take_turns(opened, made, monkeypatch):
    monkeypatch.setattr("studio_runner.queues.sqs.traffic.LONG_POLLS", 2)
    monkeypatch.setattr("studio_runner.queues.sqs.traffic.ROUND", 1.0)
    queues = [made() for _ in range(7)]
    async with opened(wait=20) as broker:
        found, workers = consumers(broker, queues, Gate())
        await asyncio.sleep(2)
        for queue in queues:
            await broker.publish(queue, b"{}")
        async with asyncio.timeout(PATIENCE):
            while len(found) < len(queues):
                await asyncio.sleep(0.05)
        await ended(workers)
    assert sorted(found) == sorted(queues)


class NarrowGate(Gate):
    """Has room for one."""

    def __init__(self):
        super().__init__(lambda _: True)
        self.full = False

    def admit(self, queue, body):
        self.asked.append(body)
        if self.full:
            return None
        self.full = True
        return self

    async def opened(self):
        while self.full:
            await self.released(self.releases)


async def test_a_runner_with_room_for_one_leaves_the_rest_of_all_queues_to_others(opened, made, client):
    queues = [made() for _ in range(8)]
    for queue in queues:
        for number in range(5):
            client.send_message(QueueUrl=url_of(client, queue), MessageBody=str(number))
    gate = NarrowGate()
    async with opened() as broker:
        found, workers = consumers(broker, queues, gate)
        async with asyncio.timeout(PATIENCE):
            while not found:
                await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        taken = sum([(await broker.status(name)).claimed for name in queues])
        await ended(workers)
    assert len(found) == 1
    assert taken <= 8  # of 40, and for seconds


class HoldingGate(Gate):
    """Admits nothing, and holds room for one message as long as it is told to."""

    holds = True

    def __init__(self):
        super().__init__(lambda _: False)

    def awaits(self, queue, body):
        return self.holds and body == b"big"


async def test_a_message_that_room_is_held_for_is_kept_and_the_others_are_left_to_other_runners(
    opened, made, client
):
    queue = made()
    for body in ("big", "small", "smaller"):
        client.send_message(QueueUrl=url_of(client, queue), MessageBody=body)
    gate, theirs = HoldingGate(), []

    async def take(broker):
        async for delivery in broker.consume(queue, Gate()):
            theirs.append(delivery.body)
            await delivery.ack()

    async def until(true):
        async with asyncio.timeout(PATIENCE):
            while not true():
                await asyncio.sleep(0.05)

    async with opened(lease=3) as ours, opened() as other:
        _, workers = consumers(ours, [queue], gate)
        await until(lambda: b"big" in gate.asked)
        taking = asyncio.create_task(take(other))
        await until(lambda: len(theirs) == 2)
        times = gate.asked.count(b"big")
        await until(lambda: gate.asked.count(b"big") >= times + 3)
        assert set(theirs) == {b"small", b"smaller"}
        gate.holds = False
        await until(lambda: b"big" in theirs)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        await ended(workers)
