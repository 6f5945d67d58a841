"""Messages stay with whoever works on them, and go to somebody else only when that one is gone."""

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from servers.proxy import Proxy
from servers.rabbitmq import RabbitMQ
from studio_runner.errors import BrokerError, LeaseLostError, QueueDeletedError
from studio_runner.queues.rabbitmq import RabbitBroker, RabbitOptions

QUEUE = "rmq_leases"
LEASE = 3.0


class Ticket:
    def release(self) -> None:
        pass


class Gate:
    """Open for so many messages."""

    releases = 0

    def __init__(self, places: int = 1000) -> None:
        self.places = places
        self.asked: list[bytes] = []

    def admit(self, queue: str, body: bytes) -> Ticket | None:
        self.asked.append(body)
        self.places -= 1
        return Ticket() if self.places >= 0 else None

    def awaits(self, queue: str, body: bytes) -> bool:
        return False

    async def opened(self) -> None:
        while self.places <= 0:
            await asyncio.sleep(0.05)

    async def released(self, seen: int) -> None:
        await asyncio.Event().wait()


def options(node, vhost, port=None, **others) -> RabbitOptions:
    url = f"amqp://guest:guest@127.0.0.1:{port or node.port}/{vhost}"
    defaults = {"lease": LEASE, "cool_down": 1.0, "poll": 0.2}
    return RabbitOptions(url, f"http://127.0.0.1:{node.management_port}", **(defaults | others))


def body(number: int = 1) -> bytes:
    return json.dumps({"experiment": {"key": f"experiment-{number}"}}).encode()


@asynccontextmanager
async def consuming(broker, gate=None, queue=QUEUE):
    """A function that waits for the next delivery."""
    arrived = asyncio.Queue()

    async def take():
        async for delivery in broker.consume(queue, gate or Gate()):
            arrived.put_nowait(delivery)

    async def next_one(patience=90.0):
        async with asyncio.timeout(patience):
            return await arrived.get()

    task = asyncio.create_task(take())
    try:
        yield next_one
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def runners(*all_options):
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(RabbitBroker(found, f"runner{number}"))
            for number, found in enumerate(all_options)
        ]


async def nothing_comes(next_one, seconds: float) -> bool:
    try:
        await next_one(seconds)
    except TimeoutError:
        return True
    return False


async def work(delivery, seconds: float) -> None:
    """What an attempt does about its lease."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await asyncio.sleep(LEASE / 3)
        try:
            await delivery.extend()
        except LeaseLostError:
            raise
        except BrokerError:
            pass


async def is_empty(broker) -> bool:
    """Once it can be asked."""
    while True:
        try:
            await broker.exists(QUEUE)
        except BrokerError:
            await asyncio.sleep(0.1)
        else:
            break
    status = await broker.status(QUEUE)
    return (status.waiting, status.delayed, status.dead) == (0, 0, 0)


async def test_a_long_experiment_keeps_its_message(rabbitmq, vhost):
    async with runners(options(rabbitmq, vhost), options(rabbitmq, vhost)) as [one, other]:
        await one.publish(QUEUE, body())
        async with consuming(one) as next_one:
            delivery = await next_one()
            async with consuming(other) as next_other:
                working = asyncio.create_task(work(delivery, 3 * LEASE))
                assert await nothing_comes(next_other, 3 * LEASE + 1)
                await working
                await delivery.ack()
                assert await nothing_comes(next_other, LEASE)
        assert await is_empty(one)


RUNNER = """
import asyncio, sys
from studio_runner.queues.rabbitmq import RabbitBroker, RabbitOptions

class Ticket:
    def release(self): pass

class Gate:
    releases = 0
    def admit(self, queue, body): return Ticket()
    def awaits(self, queue, body): return False
    async def opened(self): pass
    async def released(self, seen): await asyncio.Event().wait()

async def main(url, management, queue, lease):
    async with RabbitBroker(RabbitOptions(url, management, lease=lease), "victim") as broker:
        async for delivery in broker.consume(queue, Gate()):
            print(delivery.attempts, flush=True)
            while True:
                await asyncio.sleep(lease / 3)
                await delivery.extend()
                print("extended", flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
"""


async def victim(node, vhost, lease=LEASE):
    """Another process that works on the next message of the queue, and renews its hold after a third of the lease."""
    arguments = [f"amqp://guest:guest@127.0.0.1:{node.port}/{vhost}", f"http://127.0.0.1:{node.management_port}"]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUNNER, *arguments, QUEUE, str(lease), stdout=asyncio.subprocess.PIPE
    )


async def test_the_message_of_a_killed_runner_comes_back_charged(rabbitmq, vhost):
    async with runners(options(rabbitmq, vhost)) as [broker]:
        await broker.publish(QUEUE, body())
        for death in range(3):
            process = await victim(rabbitmq, vhost)
            attempts = int(await process.stdout.readline())
            assert attempts == death
            assert await process.stdout.readline() == b"extended\n"
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
        async with consuming(broker) as next_one:
            delivery = await next_one()
            assert (delivery.body, delivery.attempts, delivery.redelivered) == (body(), 3, True)
            await delivery.dead_letter("enough")
        [letter] = await broker.dead_letters(QUEUE)
        assert letter.attempts == 4


async def test_a_runner_that_dies_early_every_time_is_charged_too(rabbitmq, vhost):
    async with runners(options(rabbitmq, vhost)) as [broker]:
        await broker.publish(QUEUE, body())
        seen = []
        for lease in (600.0, LEASE, LEASE):  # the first one dies while it has the message as it came
            process = await victim(rabbitmq, vhost, lease)
            seen.append(int(await process.stdout.readline()))
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
        assert seen == [0, 0, 1]


@pytest.mark.parametrize("seconds", [1.0, 2.5 * LEASE])
async def test_a_cut_connection_costs_nothing(rabbitmq, vhost, seconds):
    with Proxy(rabbitmq.port) as proxy:
        async with runners(options(rabbitmq, vhost, proxy.port)) as [broker]:
            await broker.publish(QUEUE, body())
            gate = Gate()
            async with consuming(broker, gate) as next_one:
                delivery = await next_one()
                await work(delivery, LEASE / 3)
                proxy.cut()
                cut = asyncio.create_task(work(delivery, seconds))
                await cut
                proxy.restore()
                again = asyncio.create_task(next_one(2 * LEASE))
                await work(delivery, 2 * LEASE)
                with pytest.raises(TimeoutError):
                    await again
                assert gate.asked == [body()]
                await delivery.ack()
            assert await is_empty(broker)


async def test_a_cut_right_after_the_message_came_costs_nothing(rabbitmq, vhost):
    with Proxy(rabbitmq.port) as proxy:
        async with runners(options(rabbitmq, vhost, proxy.port)) as [broker]:
            await broker.publish(QUEUE, body())
            async with consuming(broker) as next_one:
                delivery = await next_one()
                proxy.cut()
                proxy.restore()
                assert await nothing_comes(next_one, LEASE)
                await delivery.extend()
                await delivery.ack()
            assert await is_empty(broker)


async def test_who_was_cut_off_for_long_leaves_the_message_to_its_new_owner(rabbitmq, vhost):
    with Proxy(rabbitmq.port) as proxy:
        async with runners(options(rabbitmq, vhost, proxy.port), options(rabbitmq, vhost)) as [cut, other]:
            await cut.publish(QUEUE, body())
            async with consuming(cut) as next_one:
                lost = await next_one()
                await work(lost, LEASE / 3)
            proxy.cut()
            async with consuming(other) as next_other:
                delivery = await next_other()
            assert delivery.attempts == 1
            proxy.restore()
            await delivery.requeue()
            with pytest.raises(LeaseLostError):
                await work(lost, 10 * LEASE)


async def test_a_finished_experiment_whose_broker_is_away_is_settled_when_it_is_back(rabbitmq, vhost):
    with Proxy(rabbitmq.port) as proxy:
        async with runners(options(rabbitmq, vhost, proxy.port)) as [broker]:
            await broker.publish(QUEUE, body())
            async with consuming(broker) as next_one:
                delivery = await next_one()
                await work(delivery, LEASE / 3)
                proxy.cut()
                settling = asyncio.create_task(delivery.ack())
                await asyncio.sleep(1.5 * LEASE)
                proxy.restore()
                await settling
                assert await nothing_comes(next_one, LEASE)
            assert await is_empty(broker)


async def test_a_deleted_queue_stops_its_experiments_after_the_cool_down(rabbitmq, vhost):
    async with runners(options(rabbitmq, vhost, cool_down=3.0)) as [broker]:
        await broker.publish(QUEUE, body())
        async with consuming(broker) as next_one:
            delivery = await next_one()
            await delivery.extend()
            rabbitmq.manage("DELETE", f"/api/queues/{vhost}/{QUEUE}")
            await delivery.extend()
            await asyncio.sleep(3.2)
            with pytest.raises(QueueDeletedError):
                await delivery.extend()
            await delivery.ack()
        assert QUEUE not in await broker.queues()


async def test_a_queue_that_is_declared_again_in_time_stops_nothing(rabbitmq, vhost):
    async with runners(options(rabbitmq, vhost, cool_down=3.0)) as [broker]:
        await broker.publish(QUEUE, body())
        async with consuming(broker) as next_one:
            delivery = await next_one()
            await delivery.extend()
            rabbitmq.manage("DELETE", f"/api/queues/{vhost}/{QUEUE}")
            await delivery.extend()
            await broker.publish(QUEUE, body(2))
            await asyncio.sleep(3.2)
            await delivery.extend()
            await delivery.ack()
            assert (await next_one()).body == body(2)


async def test_a_runner_that_ends_gives_back_what_it_has_uncharged(rabbitmq, vhost):
    async with runners(options(rabbitmq, vhost)) as [broker]:
        await broker.publish(QUEUE, body(1))
        await broker.publish(QUEUE, body(2))
        async with runners(options(rabbitmq, vhost)) as [leaving], consuming(leaving) as next_one:
            held = await next_one()
            await held.extend()
            await next_one()
        async with consuming(broker) as next_one:
            found = [await next_one(), await next_one()]
        assert sorted((delivery.body, delivery.attempts) for delivery in found) == [(body(1), 0), (body(2), 0)]
        names = [queue["name"] for queue in json.loads(rabbitmq.manage("GET", f"/api/queues/{vhost}"))]
        assert not [
            name
            for name in names
            if name.startswith(f"studio-runner.hold.{QUEUE}.runner0.") and name != found[0]._source.hold.name
        ]


LIMITED = {"conf": "consumer_timeout = 10000", "advanced": "[{rabbit, [{channel_tick_interval, 2000}]}]."}


@pytest.fixture(scope="module")
def impatient(needs_rabbitmq):
    """A node that takes a message away from whoever has held it for ten seconds."""
    with RabbitMQ(**LIMITED) as node:
        yield node


@pytest.mark.slow
async def test_messages_are_held_for_longer_than_the_consumer_timeout(impatient):
    async with runners(options(impatient, "%2f", lease=15.0)) as [broker]:
        await broker.publish(QUEUE, body())
        gate = Gate()
        async with consuming(broker, gate) as next_one:
            delivery = await next_one()
            again = asyncio.create_task(next_one(25))
            for _ in range(5):
                await asyncio.sleep(5)
                await delivery.extend()
            with pytest.raises(TimeoutError):
                await again
            await delivery.ack()
        assert gate.asked == [body()]
        assert await is_empty(broker)


@pytest.mark.slow
async def test_where_queues_may_not_be_declared_a_returned_message_is_adopted(impatient, caplog):
    impatient.manage("PUT", "/api/users/limited", b'{"password": "limited", "tags": "management"}')
    rights = b'{"configure": "^$", "write": ".*", "read": ".*"}'
    impatient.manage("PUT", "/api/permissions/%2f/limited", rights)
    limited = RabbitOptions(
        f"amqp://limited:limited@127.0.0.1:{impatient.port}",
        f"http://127.0.0.1:{impatient.management_port}",
        poll=0.2,
    )
    async with RabbitBroker(options(impatient, "%2f")) as client, RabbitBroker(limited, "limited") as broker:
        await client.publish("rmq_limited", body())
        gate = Gate()
        async with consuming(broker, gate, "rmq_limited") as next_one:
            delivery = await next_one()
            again = asyncio.create_task(next_one(25))
            for _ in range(5):
                await asyncio.sleep(5)
                await delivery.extend()
            with pytest.raises(TimeoutError):
                await again
            await delivery.ack()
            assert gate.asked == [body()]
            await client.publish("rmq_limited", body(2))
            await (await next_one()).requeue(60, reason="tried")
            again = await next_one()
            assert (again.body, again.attempts) == (body(2), 1)
            with pytest.raises(BrokerError, match=r"studio-runner\.dead\.rmq_limited does not exist"):
                await again.dead_letter("enough")
            again = await next_one()
            await again.ack()
        assert (await client.status("rmq_limited")).waiting == 0
    assert len([record for record in caplog.records if "may not declare" in record.message]) == 1


@pytest.fixture
def mortal(needs_rabbitmq):
    """A node to be killed."""
    with RabbitMQ() as node:
        yield node


@pytest.mark.slow
async def test_a_broker_that_is_killed_and_comes_back_finds_everything_in_the_same_hands(mortal):
    async with runners(options(mortal, "%2f", lease=9.0), options(mortal, "%2f", lease=9.0)) as [one, other]:
        gates = [Gate(2), Gate(2)]
        for number in range(4):
            await one.publish(QUEUE, body(number))
        async with consuming(one, gates[0]) as next_one, consuming(other, gates[1]) as next_other:
            held = [await next_one(), await next_other(), await next_one(), await next_other()]
            for delivery in held:
                await delivery.extend()
            for gate in gates:
                gate.places = 2
            waiting = [asyncio.create_task(next_one(200)), asyncio.create_task(next_other(200))]
            await asyncio.to_thread(mortal.stop, hard=True)
            await asyncio.to_thread(mortal.start)
            for delivery in held:
                await settled(delivery)
            await asyncio.sleep(10)
            assert not any(task.done() for task in waiting)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        assert len(gates[0].asked + gates[1].asked) == 4
        assert await is_empty(one)


async def settled(delivery) -> None:
    """Acknowledged, once the broker is there again."""
    while True:
        try:
            await delivery.extend()
        except LeaseLostError:
            raise
        except BrokerError:
            await asyncio.sleep(0.5)
        else:
            break
    await delivery.ack()
