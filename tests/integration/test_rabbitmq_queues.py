"""Finding queues, sharing them fairly, and saying what is wrong."""

import asyncio
import json
import shutil
import struct
from contextlib import asynccontextmanager, suppress

import aiormq
import pytest
from pamqp.commands import Basic

from servers.process import free_ports
from servers.rabbitmq import RabbitMQ
from studio_runner.errors import BrokerError
from studio_runner.queues.rabbitmq import RabbitBroker, RabbitOptions
from studio_runner.queues.rabbitmq.naming import EXCHANGE
from studio_runner.queues.rabbitmq.options import Address
from studio_runner.queues.rabbitmq.wire import Properties, Wire


class Ticket:
    def __init__(self, gate) -> None:
        self.gate = gate

    def release(self) -> None:
        self.gate.give_back()


class Gate:
    """So many at once, of those that `wanted` likes."""

    def __init__(self, places=1000, wanted=lambda _: True) -> None:
        self.places, self.wanted, self.releases = places, wanted, 0
        self.changed = asyncio.Event()

    def admit(self, queue, body):
        if not self.places or not self.wanted(body):
            return None
        self.places -= 1
        return Ticket(self)

    def awaits(self, queue, body):
        return False

    async def opened(self) -> None:
        while not self.places:
            await self.released(self.releases)

    async def released(self, seen) -> None:
        while self.releases == seen:
            self.changed.clear()
            await self.changed.wait()

    def give_back(self, places=1) -> None:
        self.places += places
        self.releases += 1
        self.changed.set()


def options(node, vhost, **others) -> RabbitOptions:
    url = others.pop("url", f"amqp://guest:guest@127.0.0.1:{node.port}/{vhost}")
    management = others.pop("management_url", f"http://127.0.0.1:{node.management_port}")
    return RabbitOptions(url, management, **({"poll": 0.2} | others))


@asynccontextmanager
async def consuming(broker, queues, gate):
    """Everything that comes from these queues, as it comes."""
    arrived = asyncio.Queue()

    async def take(queue):
        async for delivery in broker.consume(queue, gate):
            arrived.put_nowait(delivery)

    tasks = [asyncio.create_task(take(queue)) for queue in queues]

    async def next_one(patience=90.0):
        async with asyncio.timeout(patience):
            return await arrived.get()

    try:
        yield next_one
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def fill(node, vhost, queues, messages, body=b"{}") -> None:
    """`messages` of them in each of `queues`."""
    wire = await Wire.open(Address.parse(node.url(vhost)), None, "filling")
    channel = await wire.channel(confirms=True)
    await channel.declare_exchange(EXCHANGE)
    for queue in queues:
        await channel.declare(queue)
        await channel.bind(queue, EXCHANGE, f"StudioML.{queue}")
    for queue in queues:
        sending = (channel.publish("", queue, body, Properties(), patience=None) for _ in range(messages))
        await asyncio.gather(*sending)
    await wire.close()


# -- discovery ----------------------------------------------------------------------------------------------------


async def test_queues_of_every_virtual_host_are_found(rabbitmq, vhost):
    async with RabbitBroker(options(rabbitmq, "%2f")) as home:
        await home.publish(f"rmq_x@{vhost}", b"{}")
        assert f"rmq_x@{vhost}" in await home.queues()
        async with consuming(home, [f"rmq_x@{vhost}"], Gate()) as next_one:
            delivery = await next_one()
            assert delivery.queue == f"rmq_x@{vhost}"
            await delivery.ack()


async def test_new_and_deleted_queues_are_noticed(rabbitmq, vhost):
    async with RabbitBroker(options(rabbitmq, vhost)) as broker:
        assert not [name for name in await broker.queues() if "@" not in name]
        waiting = asyncio.create_task(broker.changed())
        await asyncio.sleep(0.3)
        await broker.publish("rmq_x", b"{}")
        async with asyncio.timeout(60):
            await waiting
        assert "rmq_x" in await broker.queues()
        waiting = asyncio.create_task(broker.changed())
        rabbitmq.manage("DELETE", f"/api/queues/{vhost}/rmq_x")
        async with asyncio.timeout(60):
            await waiting
        assert "rmq_x" not in await broker.queues()


async def test_named_queues_need_no_management(rabbitmq, vhost):
    [nothing] = free_ports(1)
    unmanaged = options(
        rabbitmq, vhost, management_url=f"http://127.0.0.1:{nothing}", queues=("rmq_x", "rmq_missing")
    )
    async with RabbitBroker(unmanaged) as broker:
        await broker.publish("rmq_x", b"{}")
        assert list(await broker.queues()) == ["rmq_x"]
        async with consuming(broker, ["rmq_x"], Gate()) as next_one:
            delivery = await next_one()
            await delivery.requeue(60)
        status = await broker.status("rmq_x")
        assert (status.waiting, status.delayed) == (0, 1)


# -- what is wrong ------------------------------------------------------------------------------------------------


async def complaint(found: RabbitOptions) -> str:
    async with RabbitBroker(found) as broker:
        with pytest.raises(BrokerError) as refusal:
            await broker.queues()
    text = f"{refusal.value} {refusal.value.hint}"
    assert "hush" not in text
    return text


async def test_a_wrong_password_for_the_queues(rabbitmq, vhost):
    url = f"amqp://guest:hush@127.0.0.1:{rabbitmq.port}/{vhost}"
    text = await complaint(options(rabbitmq, vhost, url=url))
    assert "does not accept user guest" in text
    assert f"127.0.0.1:{rabbitmq.port}" in text
    assert "--amqp-url" in text


async def test_a_wrong_password_for_the_management_api(rabbitmq, vhost):
    management = f"http://somebody:hush@127.0.0.1:{rabbitmq.management_port}"
    text = await complaint(options(rabbitmq, vhost, management_url=management))
    assert (
        f"management API of RabbitMQ at http://127.0.0.1:{rabbitmq.management_port}, asked by user somebody" in text
    )
    assert "--amqp-mgt-url" in text


async def test_a_missing_virtual_host(rabbitmq):
    assert "has no virtual host nowhere" in await complaint(options(rabbitmq, "nowhere"))


async def test_a_virtual_host_of_others(rabbitmq, vhost):
    rabbitmq.manage("PUT", "/api/users/stranger", b'{"password": "hush", "tags": ""}')
    url = f"amqp://stranger:hush@127.0.0.1:{rabbitmq.port}/{vhost}"
    assert "does not let user stranger into virtual host" in await complaint(options(rabbitmq, vhost, url=url))


async def test_nobody_there(rabbitmq, vhost):
    [port] = free_ports(1)
    assert "refuses connections" in await complaint(options(rabbitmq, vhost, url=f"amqp://u:hush@127.0.0.1:{port}"))


async def test_an_unknown_host(rabbitmq, vhost):
    found = options(rabbitmq, vhost, url="amqp://u:hush@no-such-host.invalid")
    assert "no address for host no-such-host.invalid" in await complaint(found)


async def test_no_tls_there(rabbitmq, vhost):
    found = options(rabbitmq, vhost, url=f"amqps://guest:hush@127.0.0.1:{rabbitmq.port}/{vhost}")
    assert "TLS" in await complaint(found)


async def test_no_management_api(rabbitmq, vhost):
    [port] = free_ports(1)
    text = await complaint(options(rabbitmq, vhost, management_url=f"http://127.0.0.1:{port}"))
    assert f"http://127.0.0.1:{port}" in text
    assert "--amqp-queues" in text


async def test_a_queue_that_is_bound_to_nothing_is_said_to_be_so(rabbitmq, vhost):
    rights = b'{"configure": "^$", "write": "^StudioML.topic$", "read": ".*"}'
    rabbitmq.manage("PUT", "/api/users/sender", b'{"password": "sender", "tags": "management"}')
    rabbitmq.manage("PUT", f"/api/permissions/{vhost}/sender", rights)
    await fill(rabbitmq, vhost, ["rmq_other"], 0)
    rabbitmq.manage("PUT", f"/api/queues/{vhost}/rmq_x", b"{}")
    url = f"amqp://sender:sender@127.0.0.1:{rabbitmq.port}/{vhost}"
    async with RabbitBroker(options(rabbitmq, vhost, url=url)) as broker:
        with pytest.raises(BrokerError, match=r"rmq_x .* does not get what is published"):
            await broker.publish("rmq_x", b"{}")


@pytest.mark.slow
async def test_a_broker_without_memory_is_said_to_be_so_and_served_nevertheless(needs_rabbitmq):
    with RabbitMQ() as node:
        await serve_without_memory(node)


async def serve_without_memory(node) -> None:
    async with RabbitBroker(options(node, "%2f", lease=3.0)) as broker:
        await broker.publish("rmq_x", b"{}")
        await control(node, "set_vm_memory_high_watermark", "absolute", "1MB")
        with pytest.raises(BrokerError, match="for want of memory or disk"):
            await broker.publish("rmq_x", b"{}")
        assert "rmq_x" in await broker.queues()
        async with consuming(broker, ["rmq_x"], Gate()) as next_one:
            delivery = await next_one()
            for _ in range(4):
                await asyncio.sleep(1)
                await delivery.extend()
            await delivery.ack()
        assert (await broker.status("rmq_x")).claimed == 0
        await control(node, "set_vm_memory_high_watermark", "0.9")
        await broker.publish("rmq_y", b"{}")


async def control(node, *arguments) -> None:
    tool = shutil.which("rabbitmqctl", path="/usr/lib/rabbitmq/bin:/usr/sbin:/usr/bin")
    env = node._node._env
    process = await asyncio.create_subprocess_exec(tool, *arguments, env=env, stdout=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 0


# -- sharing ------------------------------------------------------------------------------------------------------


async def test_a_long_queue_does_not_starve_short_ones(rabbitmq, vhost):
    await fill(rabbitmq, vhost, ["rmq_long"], 50)
    await fill(rabbitmq, vhost, ["rmq_a", "rmq_b"], 3)
    gate = Gate(places=1)
    served = []
    async with (
        RabbitBroker(options(rabbitmq, vhost)) as broker,
        consuming(broker, ["rmq_long", "rmq_a", "rmq_b"], gate) as next_one,
    ):
        for _ in range(9):
            delivery = await next_one()
            served.append(delivery.queue)
            await delivery.ack()
            delivery.ticket.release()
    assert sorted(served) == ["rmq_a"] * 3 + ["rmq_b"] * 3 + ["rmq_long"] * 3


async def test_a_small_experiment_passes_a_big_one_which_stays_first(rabbitmq, vhost):
    gate = Gate(wanted=lambda found: found != b"big" or gate.releases > 0)
    async with RabbitBroker(options(rabbitmq, vhost)) as broker:
        for body in (b"big", b"big", b"small", b"big", b"small"):
            await broker.publish("rmq_x", body)
        async with consuming(broker, ["rmq_x"], gate) as next_one:
            for _ in range(2):
                assert (await next_one()).body == b"small"
            async with asyncio.timeout(60):
                while (await broker.status("rmq_x")).waiting != 3:  # now and then they are looked at
                    await asyncio.sleep(0.02)
            gate.give_back()
            for _ in range(3):
                delivery = await next_one()
                assert (delivery.body, delivery.attempts) == (b"big", 0)


async def test_looking_at_a_message_of_a_quorum_queue_does_not_wear_it_out(rabbitmq, vhost):
    await fill(rabbitmq, vhost, ["rmq_other"], 0)
    arguments = b'{"durable": true, "arguments": {"x-queue-type": "quorum", "x-delivery-limit": 20}}'
    rabbitmq.manage("PUT", f"/api/queues/{vhost}/rmq_x", arguments)
    gate = Gate(wanted=lambda _: gate.releases >= 30)
    async with RabbitBroker(options(rabbitmq, vhost)) as broker:
        await broker.publish("rmq_x", b"big")
        async with consuming(broker, ["rmq_x"], gate) as next_one:
            for _ in range(30):
                await asyncio.sleep(0.1)
                gate.give_back()
            delivery = await next_one()
            assert (delivery.body, delivery.attempts) == (b"big", 0)


async def test_a_busy_runner_leaves_messages_to_another(rabbitmq, vhost):
    bodies = [b"%02d" % number for number in range(20)]
    async with (
        RabbitBroker(options(rabbitmq, vhost)) as busy,
        RabbitBroker(options(rabbitmq, vhost)) as idle,
        consuming(busy, ["rmq_x"], gate := Gate(places=1)) as next_busy,
    ):
        await busy.publish("rmq_x", b"first")
        await next_busy()
        assert not gate.places
        async with consuming(idle, ["rmq_x"], Gate()) as next_idle:
            for body in bodies:
                await busy.publish("rmq_x", body)
            assert sorted([(await next_idle()).body for _ in bodies]) == bodies


async def test_a_message_of_fifty_megabytes_makes_the_whole_journey(rabbitmq, vhost):
    body = bytes(50_000_000)
    async with RabbitBroker(options(rabbitmq, vhost)) as broker, consuming(broker, ["rmq_x"], Gate()) as next_one:
        await broker.publish("rmq_x", body)
        delivery = await next_one()
        await delivery.extend()
        await delivery.requeue()
        delivery = await next_one()
        assert (len(delivery.body), delivery.attempts) == (len(body), 1)
        await delivery.dead_letter("too big")
        [letter] = await broker.dead_letters("rmq_x")
        assert letter.body == body


async def test_five_hundred_queues_are_served(rabbitmq, vhost):
    queues = [f"rmq_{number}" for number in range(500)]
    await fill(rabbitmq, vhost, queues, 2)
    gate = Gate(places=4)
    async with RabbitBroker(options(rabbitmq, vhost)) as broker:
        assert set(queues) <= set(await broker.queues())
        async with consuming(broker, queues, gate) as next_one:
            held = [await next_one() for _ in range(4)]
            waiting = json.loads(rabbitmq.manage("GET", f"/api/queues/{vhost}?columns=name"))
            assert not [queue for queue in waiting if queue["name"].startswith("studio-runner.")]
            first = [delivery.queue for delivery in held]
            while len(first) < 500:
                delivery = held.pop(0)
                await delivery.ack()
                delivery.ticket.release()
                held.append(await next_one())
                first.append(held[-1].queue)
    assert sorted(first) == sorted(queues)


async def test_a_stream_of_messages_is_delivered_once_each_to_three_runners(rabbitmq, vhost):
    await fill(rabbitmq, vhost, ["rmq_x"], 0)
    seen = []

    async def serve(broker, gate):
        async for delivery in broker.consume("rmq_x", gate):
            seen.append(delivery.body)
            await delivery.ack()
            delivery.ticket.release()

    async with RabbitBroker(options(rabbitmq, vhost)) as client:
        brokers = [RabbitBroker(options(rabbitmq, vhost)) for _ in range(3)]
        tasks = []
        for broker in brokers:
            await broker.__aenter__()
            tasks.append(asyncio.create_task(serve(broker, Gate(places=1))))
        try:
            for number in range(200):
                await client.publish("rmq_x", b"%d" % number)
            async with asyncio.timeout(120):
                while len(seen) < 200:
                    await asyncio.sleep(0.05)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for broker in brokers:
                with suppress(BrokerError):
                    await broker.__aexit__(None, None, None)
    assert sorted(seen) == sorted(b"%d" % number for number in range(200))


# -- hostile senders ----------------------------------------------------------------------------------------------


class Raw(Basic.Properties):
    """Properties as nobody's library writes them."""

    raw = b""

    def marshal(self) -> bytes:
        return self.raw


def nested(depth) -> bytes:
    """A table in a table in a table."""
    table = struct.pack(">I", 0)
    for _ in range(depth):
        body = b"\x01aF" + table
        table = struct.pack(">I", len(body)) + body
    return table


HEADERS, CONTENT_TYPE, TIMESTAMP = (struct.pack(">H", 1 << bit) for bit in (13, 15, 6))


@pytest.mark.parametrize(
    "raw",
    [
        HEADERS + nested(40),
        HEADERS + nested(2000),
        HEADERS + struct.pack(">I", 11) + b"\x01aT" + struct.pack(">Q", 2**63 - 1),
        TIMESTAMP + struct.pack(">Q", 2**63 - 1),
        CONTENT_TYPE + b"\x02\xff\xfe",
    ],
    ids=["deep", "bottomless", "header after all time", "sent after all time", "no text"],
)
async def test_headers_that_nobody_can_read_count_as_none(rabbitmq, vhost, raw):
    """They broke the connection of every queue, for ever: the broker delivered the message again and again."""
    await fill(rabbitmq, vhost, ["rmq_x"], 0)
    connection = await aiormq.connect(rabbitmq.url(vhost))
    channel = await connection.channel()
    hostile = Raw()
    hostile.raw = raw
    await channel.basic_publish(b"hostile", routing_key="rmq_x", properties=hostile)
    await connection.close()
    async with RabbitBroker(options(rabbitmq, vhost)) as broker:
        await broker.publish("rmq_x", b"harmless")
        async with consuming(broker, ["rmq_x"], Gate()) as next_one:
            first, second = await next_one(), await next_one()
            assert (first.body, second.body) == (b"hostile", b"harmless")
            await first.dead_letter("it is hostile")
            await second.ack()
        assert [letter.body for letter in await broker.dead_letters("rmq_x")] == [b"hostile"]
