"""What every broker promises, over each of them."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from servers.proxy import Proxy
from studio_runner.errors import BrokerError, LeaseLostError
from studio_runner.machine.inventory import Capacity
from studio_runner.machine.ledger import Ledger
from studio_runner.machine.need import Need
from studio_runner.messages.naming import name_of
from studio_runner.queues.base import Delivery
from studio_runner.queues.layout import ClaimName, RootPlace
from studio_runner.queues.local import LocalBroker, LocalQueueOptions
from studio_runner.queues.memory import MemoryBroker
from studio_runner.queues.rabbitmq import RabbitBroker, RabbitOptions
from studio_runner.queues.sqs import SqsBroker, SqsOptions
from studio_runner.runner.intake import Admission, Intake, Quota, Terms

QUEUE = "local_contract"
PATIENCE = 120.0


class Ticket:
    def __init__(self, gate: "Gate") -> None:
        self.gate = gate
        self.released = False

    def release(self) -> None:
        assert not self.released
        self.released = True
        self.gate.give_back()


class Gate:
    """Admits up to `places` messages at once, of those that `wanted` likes."""

    def __init__(self, places: int = 1_000_000, wanted: Callable[[bytes], bool] = lambda _: True) -> None:
        self.places = places
        self.wanted = wanted
        self.asked: list[bytes] = []
        self.releases = 0
        self._changed = asyncio.Event()

    def admit(self, queue: str, body: bytes) -> Ticket | None:
        self.asked.append(body)
        if not self.places or not self.wanted(body):
            return None
        self.places -= 1
        return Ticket(self)

    def awaits(self, queue: str, body: bytes) -> bool:
        return False

    async def opened(self) -> None:
        while not self.places:
            await self.released(self.releases)

    async def released(self, seen: int) -> None:
        while self.releases == seen:
            self._changed.clear()
            await self._changed.wait()

    def give_back(self, places: int = 1) -> None:
        self.places += places
        self.releases += 1
        self._changed.set()


@dataclass
class Backend:
    """A broker, and how a runner of it comes to lose what it holds."""

    broker: Any
    expire: Callable[[], Awaitable[None]]
    shows_delayed: bool = True
    """Whether a person can get at a delayed message."""
    charged_keep_place: bool = True
    """Whether a message that was tried goes back to where it was, rather than to the end of its queue."""


@asynccontextmanager
async def local_backend(tmp_path: Path) -> AsyncIterator[Backend]:
    root = tmp_path / "queue"

    async def expire() -> None:
        """What another runner does that believes this one dead."""
        place = RootPlace(root).queue(QUEUE)
        for path in place.claimed.iterdir():
            claim = ClaimName.parse(path.name)
            assert claim is not None
            path.rename(place.messages / claim.message.charged.file_name)

    async with LocalBroker(root, LocalQueueOptions(lease=15, poll=0.2)) as broker:
        yield Backend(broker, expire)


@asynccontextmanager
async def memory_backend(tmp_path: Path) -> AsyncIterator[Backend]:
    async with MemoryBroker() as broker:

        async def expire() -> None:
            broker.expire(QUEUE)

        yield Backend(broker, expire)


class MovableClock:
    """A clock that can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@asynccontextmanager
async def sqs_backend(tmp_path: Path) -> AsyncIterator[Backend]:
    clock = MovableClock()
    options = SqsOptions(certs=tmp_path, endpoint=os.environ["SQS_ENDPOINT"], prefix="local_", wait=1, tidy=0.2)
    (tmp_path / "credentials").write_text(SQS_CREDENTIALS)

    async def expire() -> None:
        """The visibility timeouts of all that is held pass."""
        for delivery in broker._custody.held.values():
            await delivery._receipt.queue.hide(delivery._receipt.message, 0)
        clock.ahead += 3600

    async with SqsBroker(options, "contract", clock) as broker:
        yield Backend(broker, expire, shows_delayed=False)


async def exists(broker) -> bool:
    """Whether the queue is there, and can be seen."""
    try:
        return await broker.exists(QUEUE)
    except BrokerError:
        return False


@asynccontextmanager
async def rabbitmq_backend(tmp_path: Path) -> AsyncIterator[Backend]:
    address, port, management = os.environ["RABBITMQ_CONTRACT"].split()

    with Proxy(int(port)) as proxy:

        def options(at: object) -> RabbitOptions:
            url = f"amqp://{address}:contract@127.0.0.1:{at}/{address}"
            return RabbitOptions(url, f"http://127.0.0.1:{management}", lease=1.5, poll=0.2)

        async def expire() -> None:
            """The connection breaks, and another runner tries it in vain before it is there again."""
            proxy.cut()
            async with RabbitBroker(options(port), "other") as other:
                [delivery] = await take(other)
                await delivery.requeue()
            proxy.restore()
            while not await exists(broker):
                await asyncio.sleep(0.05)

        async with RabbitBroker(options(proxy.port), "contract") as broker:
            yield Backend(broker, expire, charged_keep_place=False)


SQS_CREDENTIALS = "[default]\naws_access_key_id = testing\naws_secret_access_key = testing\nregion = us-east-1\n"


@pytest.fixture
def sqs_endpoint(sqs, monkeypatch):
    """A server without any queue."""
    monkeypatch.setenv("SQS_ENDPOINT", sqs.url)
    urlopen(Request(f"{sqs.url}/moto-api/reset", method="POST")).close()


@pytest.fixture
def rabbitmq_address(rabbitmq, vhost, monkeypatch):
    """A virtual host without any queue, and a user that sees no other one."""
    rabbitmq.manage("PUT", f"/api/users/{vhost}", b'{"password": "contract", "tags": "management"}')
    rights = b'{"configure": ".*", "write": ".*", "read": ".*"}'
    rabbitmq.manage("PUT", f"/api/permissions/{vhost}/{vhost}", rights)
    monkeypatch.setenv("RABBITMQ_CONTRACT", f"{vhost} {rabbitmq.port} {rabbitmq.management_port}")


SERVERS = {sqs_backend: "sqs_endpoint", rabbitmq_backend: "rabbitmq_address"}
BACKENDS = {"local": local_backend, "memory": memory_backend, "sqs": sqs_backend, "rabbitmq": rabbitmq_backend}


@pytest.fixture(params=BACKENDS.values(), ids=BACKENDS.keys())
async def backend(request, tmp_path) -> AsyncIterator[Backend]:
    if server := SERVERS.get(request.param):
        request.getfixturevalue(server)
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(request.param(tmp_path))


@pytest.fixture
def broker(backend):
    return backend.broker


@asynccontextmanager
async def consuming(broker, gate: Gate) -> AsyncIterator[Callable[[], Awaitable[Delivery]]]:
    deliveries = broker.consume(QUEUE, gate)

    async def next_one() -> Delivery:
        async with asyncio.timeout(PATIENCE):
            return await anext(deliveries)

    try:
        yield next_one
    finally:
        await deliveries.aclose()


async def take(broker, count: int = 1, gate: Gate | None = None) -> list[Delivery]:
    async with consuming(broker, gate or Gate()) as next_one:
        return [await next_one() for _ in range(count)]


async def nothing_comes(broker, gate: Gate | None = None) -> bool:
    async with consuming(broker, gate or Gate()) as next_one:
        task = asyncio.ensure_future(next_one())
        done, _ = await asyncio.wait([task], timeout=0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return not done


def body(number: int) -> bytes:
    return json.dumps({"experiment": {"key": f"experiment-{number}"}}).encode()


async def test_there_are_no_queues_at_first(broker):
    assert list(await broker.queues()) == []
    assert not await broker.exists(QUEUE)


async def test_a_published_message_is_delivered(broker):
    await broker.publish(QUEUE, body(1))
    assert list(await broker.queues()) == [QUEUE]
    assert await broker.exists(QUEUE)
    [delivery] = await take(broker)
    assert (delivery.body, delivery.queue, delivery.attempts) == (body(1), QUEUE, 0)


async def test_oldest_first(broker):
    for number in range(20):
        await broker.publish(QUEUE, body(number))
    deliveries = await take(broker, 20)
    assert [delivery.body for delivery in deliveries] == [body(number) for number in range(20)]


async def test_a_message_is_delivered_once(broker):
    await broker.publish(QUEUE, body(1))
    [delivery] = await take(broker)
    assert await nothing_comes(broker)
    await delivery.ack()
    assert await nothing_comes(broker)


async def test_a_message_published_to_a_waiting_consumer_is_delivered(broker):
    async with consuming(broker, Gate()) as next_one:
        waiting = asyncio.ensure_future(next_one())
        await asyncio.sleep(0.05)
        await broker.publish(QUEUE, body(1))
        assert (await waiting).body == body(1)


async def test_waiting_for_messages_makes_no_queue(broker):
    assert await nothing_comes(broker)
    assert not await broker.exists(QUEUE)
    assert list(await broker.queues()) == []


async def test_a_queue_can_be_made_before_anything_is_in_it(broker):
    await broker.create(QUEUE)
    await broker.create(QUEUE)
    assert await broker.exists(QUEUE)
    assert list(await broker.queues()) == [QUEUE]
    assert await nothing_comes(broker)


async def test_reports_come_in_their_order(broker):
    await broker.create(QUEUE)
    texts = [f"a2V5{number:04},ZGF0YQ==".encode() for number in range(20)]
    for text in texts:
        assert await broker.report(QUEUE, text)
    assert [delivery.body for delivery in await take(broker, 20)] == texts


async def test_a_report_makes_no_queue(broker):
    assert not await broker.report(QUEUE, b"a2V5,ZGF0YQ==")
    assert not await broker.exists(QUEUE)


async def test_a_queue_of_requests_takes_a_report(broker):
    await broker.publish(QUEUE, body(1))
    assert await broker.report(QUEUE, b"a2V5,ZGF0YQ==")
    assert [delivery.body for delivery in await take(broker, 2)] == [body(1), b"a2V5,ZGF0YQ=="]


async def test_the_ticket_travels_with_the_delivery(broker):
    await broker.publish(QUEUE, body(1))
    [delivery] = await take(broker)
    assert isinstance(delivery.ticket, Ticket)
    assert not delivery.ticket.released


async def test_a_refused_message_stays_and_the_next_is_taken(broker):
    await broker.publish(QUEUE, body(1))
    await broker.publish(QUEUE, body(2))
    [delivery] = await take(broker, gate=Gate(wanted=lambda found: found == body(2)))
    assert delivery.body == body(2)
    [delivery] = await take(broker)
    assert (delivery.body, delivery.attempts) == (body(1), 0)


async def test_a_refused_message_is_offered_again_when_something_is_given_back(broker):
    gate = Gate(wanted=lambda _: gate.releases > 0)
    await broker.publish(QUEUE, body(1))
    async with consuming(broker, gate) as next_one:
        waiting = asyncio.ensure_future(next_one())
        async with asyncio.timeout(PATIENCE):
            while not gate.asked:
                await asyncio.sleep(0.01)
        assert set(gate.asked) == {body(1)}
        assert not waiting.done()
        gate.give_back()
        assert (await waiting).body == body(1)


async def test_a_new_message_is_offered_while_older_ones_are_refused(broker):
    gate = Gate(wanted=lambda found: found == body(2))
    await broker.publish(QUEUE, body(1))
    async with consuming(broker, gate) as next_one:
        waiting = asyncio.ensure_future(next_one())
        async with asyncio.timeout(PATIENCE):
            while not gate.asked:
                await asyncio.sleep(0.01)
        await broker.publish(QUEUE, body(2))
        assert (await waiting).body == body(2)


async def test_messages_behind_many_refused_ones_are_reached(broker):
    for number in range(200):
        await broker.publish(QUEUE, body(number))
    [delivery] = await take(broker, gate=Gate(wanted=lambda found: found == body(199)))
    assert delivery.body == body(199)


async def test_of_many_refused_messages_every_one_gets_another_chance(broker):
    for number in range(200):
        await broker.publish(QUEUE, body(number))
    gate = Gate(wanted=lambda found: gate.releases > 0 and found == body(150))
    async with consuming(broker, gate) as next_one:
        waiting = asyncio.ensure_future(next_one())
        while len(set(gate.asked)) < 200:
            await asyncio.sleep(0.01)
        gate.give_back()
        assert (await waiting).body == body(150)


async def test_a_full_gate_is_not_asked_again_and_again(broker):
    gate = Gate(wanted=lambda _: False)
    await broker.publish(QUEUE, body(1))
    assert await nothing_comes(broker, gate)
    assert len(gate.asked) < 10


async def test_nothing_is_taken_while_the_gate_is_closed(broker):
    gate = Gate(places=0)
    await broker.publish(QUEUE, body(1))
    async with consuming(broker, gate) as next_one:
        waiting = asyncio.ensure_future(next_one())
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done
        assert gate.asked == []
        assert (await broker.status(QUEUE)).waiting == 1
        gate.give_back()
        assert (await waiting).body == body(1)


async def test_requeued_it_comes_again_charged(broker):
    await broker.publish(QUEUE, body(1))
    for attempts in range(4):
        [delivery] = await take(broker)
        assert (delivery.body, delivery.attempts) == (body(1), attempts)
        await delivery.requeue()


async def test_requeued_without_charge_its_count_stays(broker):
    await broker.publish(QUEUE, body(1))
    [delivery] = await take(broker)
    await delivery.requeue()
    [delivery] = await take(broker)
    await delivery.requeue(charge=False)
    [delivery] = await take(broker)
    assert delivery.attempts == 1


async def test_a_returned_message_keeps_its_place(backend):
    broker = backend.broker
    for number in range(3):
        await broker.publish(QUEUE, body(number))
    [first] = await take(broker)
    await first.requeue(charge=backend.charged_keep_place)
    assert [delivery.body for delivery in await take(broker, 3)] == [body(0), body(1), body(2)]


async def test_requeued_with_a_delay_it_comes_later(broker):
    await broker.publish(QUEUE, body(1))
    [delivery] = await take(broker)
    await delivery.requeue(3)
    status = await broker.status(QUEUE)
    assert (status.waiting, status.delayed, status.claimed) == (0, 1, 0)
    assert await nothing_comes(broker)
    [delivery] = await take(broker)
    assert (delivery.body, delivery.attempts) == (body(1), 1)


async def test_a_dead_letter_is_kept_with_its_reason(broker):
    await broker.publish(QUEUE, body(1))
    [delivery] = await take(broker)
    await delivery.dead_letter("it is no good")
    assert await nothing_comes(broker)
    [letter] = await broker.dead_letters(QUEUE)
    assert (letter.queue, letter.body, letter.reason, letter.attempts) == (QUEUE, body(1), "it is no good", 1)
    assert (await broker.status(QUEUE)).dead == 1


async def test_a_revived_dead_letter_has_a_fresh_budget(broker):
    await broker.publish(QUEUE, body(1))
    [delivery] = await take(broker)
    await delivery.requeue()
    [delivery] = await take(broker)
    await delivery.dead_letter("no")
    assert await broker.revive(QUEUE) == 1
    [delivery] = await take(broker)
    assert (delivery.body, delivery.attempts) == (body(1), 0)
    assert list(await broker.dead_letters(QUEUE)) == []


async def test_one_dead_letter_is_revived_by_name(broker):
    for number in range(2):
        await broker.publish(QUEUE, body(number))
    for delivery in await take(broker, 2):
        await delivery.dead_letter("no")
    chosen = next(letter for letter in await broker.dead_letters(QUEUE) if letter.body == body(1))
    assert await broker.revive(QUEUE, chosen.name) == 1
    assert await broker.revive(QUEUE, chosen.name) == 0
    assert [letter.body for letter in await broker.dead_letters(QUEUE)] == [body(0)]


async def test_status_counts(broker):
    for number in range(5):
        await broker.publish(QUEUE, body(number))
    held, delayed, dead = await take(broker, 3)
    await delayed.requeue(60)
    await dead.dead_letter("no")
    status = await broker.status(QUEUE)
    assert (status.name, status.waiting, status.claimed, status.delayed, status.dead) == (QUEUE, 2, 1, 1, 1)
    await held.ack()
    assert (await broker.status(QUEUE)).claimed == 0


async def test_a_waiting_experiment_is_withdrawn(broker):
    for number in range(3):
        await broker.publish(QUEUE, body(number))
    assert await broker.withdraw(QUEUE, "experiment-1")
    assert not await broker.withdraw(QUEUE, "experiment-1")
    assert [delivery.body for delivery in await take(broker, 2)] == [body(0), body(2)]


async def test_a_waiting_sealed_message_is_withdrawn_by_its_name(broker):
    sealed = [json.dumps({"message": {"payload": f"{number},x"}}).encode() for number in range(3)]
    for message in sealed:
        await broker.publish(QUEUE, message)
    assert await broker.withdraw(QUEUE, name_of(sealed[1]))
    assert not await broker.withdraw(QUEUE, name_of(sealed[1]))
    assert [delivery.body for delivery in await take(broker, 2)] == [sealed[0], sealed[2]]


async def test_a_delayed_experiment_is_withdrawn(backend, broker):
    if not backend.shows_delayed:
        pytest.skip("this broker shows delayed messages to nobody")
    await broker.publish(QUEUE, body(1))
    [delivery] = await take(broker)
    await delivery.requeue(60)
    assert await broker.withdraw(QUEUE, "experiment-1")
    assert (await broker.status(QUEUE)).delayed == 0


async def test_a_running_experiment_is_not_withdrawn(broker):
    await broker.publish(QUEUE, body(1))
    [delivery] = await take(broker)
    assert not await broker.withdraw(QUEUE, "experiment-1")
    await delivery.extend()


async def test_messages_that_are_no_requests_do_not_disturb_a_withdrawal(broker):
    for odd in (b"experiment-1", b'"experiment-1"', b'{"experiment": "experiment-1"}', b"\xff experiment-1"):
        await broker.publish(QUEUE, odd)
    assert not await broker.withdraw(QUEUE, "experiment-1")
    assert (await broker.status(QUEUE)).waiting == 4


async def settle_ack(delivery):
    await delivery.ack()


async def settle_requeue(delivery):
    await delivery.requeue()


async def settle_delayed(delivery):
    await delivery.requeue(5)


async def settle_dead_letter(delivery):
    await delivery.dead_letter("no")


SETTLEMENTS = [settle_ack, settle_requeue, settle_delayed, settle_dead_letter]


@pytest.mark.parametrize("settle", SETTLEMENTS)
async def test_whoever_lost_the_lease_learns_it_when_settling(backend, settle):
    await backend.broker.publish(QUEUE, body(1))
    [lost] = await take(backend.broker)
    await backend.expire()
    with pytest.raises(LeaseLostError):
        await settle(lost)
    with pytest.raises(LeaseLostError):
        await lost.extend()
    [successor] = await take(backend.broker)
    assert (successor.body, successor.attempts) == (body(1), 1)
    assert await nothing_comes(backend.broker)
    assert (await backend.broker.status(QUEUE)).dead == 0


async def test_whoever_lost_the_lease_learns_it_when_extending(backend):
    await backend.broker.publish(QUEUE, body(1))
    [delivery] = await take(backend.broker)
    await delivery.extend()
    await backend.expire()
    with pytest.raises(LeaseLostError):
        await delivery.extend()


@pytest.mark.parametrize("again", SETTLEMENTS)
@pytest.mark.parametrize("settle", SETTLEMENTS)
async def test_a_delivery_is_settled_once(broker, settle, again):
    await broker.publish(QUEUE, body(1))
    [delivery] = await take(broker)
    await settle(delivery)
    before = await broker.status(QUEUE)
    with pytest.raises(BrokerError, match="settled already"):
        await again(delivery)
    assert await broker.status(QUEUE) == before


async def test_two_consumers_share_a_queue(broker):
    first, second = Gate(), Gate()
    async with consuming(broker, first) as one, consuming(broker, second) as other:
        for number in range(10):
            await broker.publish(QUEUE, body(number))
        bodies = [(await one()).body if number % 2 else (await other()).body for number in range(10)]
    assert sorted(bodies) == sorted(body(number) for number in range(10))


async def test_a_message_may_be_anything(broker):
    for odd in (b"", b"not json", b"\x00\xff", b"[" * 5000, b'{"a": "' + b"x" * 1_000_000 + b'"}'):
        await broker.publish(QUEUE, odd)
        [delivery] = await take(broker)
        assert delivery.body == odd
        await delivery.ack()


async def test_dead_letters_of_an_unknown_queue_are_none(broker):
    assert list(await broker.dead_letters("local_nowhere")) == []
    assert await broker.revive("local_nowhere") == 0
    assert not await broker.withdraw("local_nowhere", "experiment-1")
    assert (await broker.status("local_nowhere")).waiting == 0


# -- room that is held for one of them ------------------------------------------------------------------------------


def request_for(key: str, cores: int) -> bytes:
    """A request for so many cores, for as long as it likes."""
    workspace = {"qualified": "file:///w.tar", "mutable": False, "unpack": True}
    experiment = {
        "key": key,
        "filename": "main.py",
        "artifacts": {"workspace": workspace},
        "resources_needed": {"cpus": cores, "ram": "1mb", "hdd": "1mb"},
    }
    return json.dumps({"experiment": experiment, "config": {}}).encode()


class Asked(Intake):
    """The runner's own gate, on a machine of four cores of which three are taken, without patience."""

    def __init__(self) -> None:
        ledger = Ledger(Capacity(cores=4, memory=10**9, disk=10**9))
        super().__init__(ledger, Quota(0, 0.0), Terms())
        busy = ledger.reserve(Need(Capacity(cores=3, memory=0, disk=0)))
        assert busy
        self.busy = busy
        self.asked: set[bytes] = set()

    def admit(self, queue: str, body: bytes) -> Admission | None:
        self.asked.add(body)
        return super().admit(queue, body)


@asynccontextmanager
async def holding(broker: Any) -> AsyncIterator[tuple[Asked, "asyncio.Queue[Delivery]"]]:
    """A consumer that leaves small ones for the sake of a big one, behind many that never fit; what it gets."""
    gate, arrived = Asked(), asyncio.Queue[Delivery]()

    async def consume() -> None:
        async for delivery in broker.consume(QUEUE, gate):
            arrived.put_nowait(delivery)

    for number in range(20):
        await broker.publish(QUEUE, request_for(f"never {number}", 64))
    await broker.publish(QUEUE, request_for("big", 4))
    consuming = asyncio.create_task(consume())
    try:
        async with asyncio.timeout(PATIENCE):
            while request_for("big", 4) not in gate.asked:
                await asyncio.sleep(0.01)
            for number in range(3):
                await broker.publish(QUEUE, request_for(f"small {number}", 1))
            while not gate.hold:
                await asyncio.sleep(0.01)
        yield gate, arrived
    finally:
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)


def key_of(delivery: Delivery) -> str:
    return str(json.loads(delivery.body)["experiment"]["key"])


async def test_the_message_that_room_is_held_for_comes_when_its_room_is_there_and_then_the_others(backend):
    async with holding(backend.broker) as (gate, arrived):
        assert gate.hold.key == "big"
        assert arrived.empty()
        gate.busy.release()
        async with asyncio.timeout(PATIENCE):
            big = await arrived.get()
            assert key_of(big) == "big"
            await big.ack()
            big.ticket.release()
            others = [await arrived.get() for _ in range(3)]
        assert {key_of(one) for one in others} == {"small 0", "small 1", "small 2"}
        for one in others:
            await one.ack()


async def test_when_somebody_takes_that_message_away_the_others_come(backend, monkeypatch):
    monkeypatch.setattr("studio_runner.machine.placement.UNSEEN", 1.0)
    async with holding(backend.broker) as (_, arrived):
        if not await backend.broker.withdraw(QUEUE, "big"):
            pytest.skip("here nobody can take it away while a runner holds room for it")
        async with asyncio.timeout(PATIENCE):
            small = await arrived.get()
        assert key_of(small).startswith("small")
        await small.ack()
