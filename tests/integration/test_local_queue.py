"""What only directory queues do: other people's files, locks, faults of the file system, coming and going."""

import asyncio
import json
import os
import shutil
import stat
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from filelock import SoftFileLock

from studio_runner.errors import BrokerError, LeaseLostError
from studio_runner.queues import reading, watch
from studio_runner.queues.local import LocalBroker, LocalQueueOptions

QUEUE = "local_a"
PATIENCE = 60.0
OPTIONS = LocalQueueOptions(lease=1.5, poll=0.1, runner_id="tester")


class Ticket:
    def release(self) -> None:
        pass


class OpenGate:
    """Admits everything."""

    releases = 0

    def admit(self, queue: str, body: bytes) -> Ticket:
        return Ticket()

    def awaits(self, queue: str, body: bytes) -> bool:
        return False

    async def opened(self) -> None:
        pass

    async def released(self, seen: int) -> None:
        await asyncio.Event().wait()


@asynccontextmanager
async def consuming(broker, queue=QUEUE) -> AsyncIterator:
    deliveries = broker.consume(queue, OpenGate())
    asked = []

    async def wait():
        async with asyncio.timeout(PATIENCE):
            return await anext(deliveries)

    def next_one():
        asked.append(asyncio.ensure_future(wait()))
        return asked[-1]

    try:
        yield next_one
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await deliveries.aclose()


async def take(broker, queue=QUEUE):
    async with consuming(broker, queue) as next_one:
        return await next_one()


async def comes(task: "asyncio.Future", within: float = 0.3) -> bool:
    await asyncio.wait([task], timeout=within)
    return task.done()


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "queue"


@pytest.fixture
def queue(root) -> Path:
    (root / QUEUE).mkdir(parents=True)
    return root / QUEUE


@pytest.fixture(params=["notified", "looking"])
def notification(request, monkeypatch):
    """With the kernel's help, and as on a network file system."""
    if request.param == "looking":
        monkeypatch.setattr(watch, "InotifyWatch", NoInotify)
    return request.param


class NoInotify:
    @classmethod
    def open(cls, complaints):
        raise OSError(24, "Too many open files")


@pytest.fixture
async def broker(root):
    async with LocalBroker(root, OPTIONS) as broker:
        yield broker


# -- existing clients ---------------------------------------------------------------------------------------------


async def test_a_client_that_locks_while_it_writes(broker, queue, notification):
    """What it has written by and by is delivered whole, once the lock is gone."""
    async with consuming(broker) as next_one:
        waiting = next_one()
        with SoftFileLock(queue / "lock.lock"), (queue / "5b3f").open("wb", buffering=0) as file:
            file.write(b'{"experiment": ')
            assert not await comes(waiting)
            file.write(b"{}}")
            file.close()
            assert not await comes(waiting)
        assert (await waiting).body == b'{"experiment": {}}'


async def test_a_client_in_another_thread_writing_many(broker, queue):
    def write():
        for number in range(50):
            with SoftFileLock(queue / "lock.lock"), (queue / f"m{number}").open("w") as file:
                file.write('{"number": ')
                file.flush()
                file.write(f"{number}}}")

    writer = threading.Thread(target=write)
    writer.start()
    async with consuming(broker) as next_one:
        bodies = [json.loads((await next_one()).body)["number"] for _ in range(50)]
    writer.join()
    assert sorted(bodies) == list(range(50))


async def test_a_lock_left_behind_does_not_stop_the_queue(broker, queue, monkeypatch):
    monkeypatch.setattr(reading, "LOCK_EXPIRES", 0.3)
    (queue / "lock.lock").touch()
    (queue / "a").write_bytes(b"{}")
    assert (await take(broker)).body == b"{}"


async def test_a_client_that_writes_without_a_lock(broker, queue, notification, monkeypatch):
    monkeypatch.setattr(reading, "SETTLES", 4.0)  # this test may be held up as well
    async with consuming(broker) as next_one:
        waiting = next_one()
        with (queue / "a").open("wb", buffering=0) as file:
            file.write(b'{"experiment": ')
            assert not await comes(waiting)
            file.write(b"{}}")
        assert (await waiting).body == b'{"experiment": {}}'


async def test_a_message_that_stays_broken_is_delivered_as_it_is(broker, queue):
    (queue / "a").write_bytes(b'{"experiment": ')
    (queue / "b").write_bytes(b"")
    async with consuming(broker) as next_one:
        assert sorted([(await next_one()).body, (await next_one()).body]) == [b"", b'{"experiment": ']


async def test_a_broken_message_does_not_hold_up_the_others(broker, queue):
    (queue / "a").write_bytes(b"{")
    os.utime(queue / "a", ns=(1, 1))
    (queue / "b").write_bytes(b"{}")
    async with consuming(broker) as next_one:
        assert [(await next_one()).body for _ in range(2)] == [b"{}", b"{"]


async def test_clients_see_nothing_but_messages_in_the_queue_directory(broker, queue):
    for number in range(4):
        await broker.publish(QUEUE, b"%d" % number)
    async with consuming(broker) as next_one:
        _held, delayed, dead = [await next_one() for _ in range(3)]
        await delayed.requeue(60)
        await dead.dead_letter("no")
        [last] = list(queue.iterdir())
        assert last.read_bytes() == b"3"
        assert last.is_file()


async def test_oldest_first_whatever_the_names(broker, queue):
    for name, modified in [("a", 30), ("b", 10), ("c", 20)]:
        (queue / name).write_text(f'"{name}"')
        os.utime(queue / name, (modified, modified))
    async with consuming(broker) as next_one:
        assert [(await next_one()).body for _ in range(3)] == [b'"b"', b'"c"', b'"a"']


async def test_odd_things_in_a_queue_are_left_alone_and_said_once(broker, queue, caplog):
    (queue / "directory").mkdir()
    (queue / "directory" / "a").write_text("{}")
    (queue / ".hidden").write_text("{}")
    (queue / "link").symlink_to(queue / ".hidden")
    os.mkfifo(queue / "pipe")
    (queue / "message").write_text("{}")
    async with consuming(broker) as next_one:
        await next_one()
        assert not await comes(next_one(), 0.5)
    assert sorted(path.name for path in queue.iterdir()) == [".hidden", "directory", "link", "pipe"]
    for name in ("link", "pipe"):
        assert caplog.text.count(f"{queue / name}: ") == 1


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "a~3", "-rf", "a b\nc", "a~tried7", "🎲~0~1~2"])
async def test_any_file_name_goes_all_the_way(broker, queue, name):
    (queue / name).write_text("{}")
    delivery = await take(broker)
    await delivery.requeue(0.05)
    delivery = await take(broker)
    await delivery.dead_letter("no")
    assert await broker.revive(QUEUE) == 1
    delivery = await take(broker)
    assert delivery.attempts == 0
    await delivery.ack()
    assert list(queue.iterdir()) == []


async def test_a_name_used_again_while_its_first_message_is_held(broker, queue):
    (queue / "next").write_text("1")
    async with consuming(broker) as next_one:
        first = await next_one()
        (queue / "next").write_text("2")
        second = await next_one()
        assert (first.body, second.body) == (b"1", b"2")
        await first.requeue()
        await second.requeue()
        assert sorted([(await next_one()).body, (await next_one()).body]) == [b"1", b"2"]


class ChangingGate(OpenGate):
    """Admits nothing until something is given back."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.asked = asyncio.Event()

    @property
    def releases(self):
        return int(self.open.is_set())

    def admit(self, queue, body):
        self.asked.set()
        return Ticket() if self.open.is_set() else None

    async def released(self, seen):
        await self.open.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="notification is the kernel's")
async def test_nobody_waits_for_the_next_look_when_something_happens(root, queue):
    """An arrival, a release and a delay that is over are acted upon at once, however seldom one looks."""
    (queue / "a").write_text('"a"')
    gate = ChangingGate()
    async with asyncio.timeout(PATIENCE), LocalBroker(root, LocalQueueOptions(lease=1000, poll=1000)) as broker:
        deliveries = broker.consume(QUEUE, gate)
        waiting = asyncio.ensure_future(anext(deliveries))
        await gate.asked.wait()
        gate.open.set()
        delivery = await waiting
        waiting = asyncio.ensure_future(anext(deliveries))
        assert not await comes(waiting)
        (queue / "b").write_text('"b"')
        assert (await waiting).body == b'"b"'
        await delivery.requeue(0.1)
        assert (await anext(deliveries)).body == b'"a"'
        await deliveries.aclose()


class SwappingGate(OpenGate):
    """While it considers the first message, somebody puts another in its place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.admitted = []
        self.released_tickets = 0

    def admit(self, queue, body):
        self.admitted.append(body)
        if len(self.admitted) == 1:
            self.path.with_name(".new").write_text('"new"')
            self.path.with_name(".new").rename(self.path)
        return self

    def release(self):
        self.released_tickets += 1


async def test_what_is_delivered_is_what_was_admitted(broker, queue):
    (queue / "a").write_text('"old"')
    gate = SwappingGate(queue / "a")
    deliveries = broker.consume(QUEUE, gate)
    async with asyncio.timeout(PATIENCE):
        delivery = await anext(deliveries)
    await deliveries.aclose()
    assert gate.admitted == [b'"old"', b'"new"']
    assert (delivery.body, delivery.attempts, gate.released_tickets) == (b'"new"', 0, 1)


async def test_a_message_too_large_to_be_one_becomes_a_dead_letter(broker, queue):
    with (queue / "large").open("wb") as file:
        file.truncate(reading.LARGEST + 1)
    (queue / "small").write_text("{}")
    assert (await take(broker)).body == b"{}"
    [letter] = await broker.dead_letters(QUEUE)
    assert str(reading.LARGEST + 1) in letter.reason


# -- faults of the file system ------------------------------------------------------------------------------------


@contextmanager
def as_somebody_else():
    """Root may read everything; be nobody for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_root(tmp_path_factory, request):
    """A root that anybody could use."""
    base = Path("/tmp") if os.geteuid() == 0 else tmp_path_factory.mktemp("open")
    root = base / f"studio-runner-test-{os.getpid()}-{request.node.name[:20]}"
    (root / QUEUE).mkdir(parents=True)
    root.chmod(0o777)
    (root / QUEUE).chmod(0o777)
    yield root
    for directory, _, _ in os.walk(root):
        Path(directory).chmod(0o777)
    shutil.rmtree(root)


async def test_an_unreadable_message_is_said_once_and_the_rest_goes_on(open_root, caplog):
    unreadable = open_root / QUEUE / "a"
    unreadable.write_text('"a"')
    unreadable.chmod(0)
    (open_root / QUEUE / "b").write_text('"b"')
    with as_somebody_else():
        async with LocalBroker(open_root, OPTIONS) as broker, consuming(broker) as next_one:
            assert (await next_one()).body == b'"b"'
            waiting = next_one()
            assert not await comes(waiting, 0.5)
            assert caplog.text.count("Permission denied") == 1
            assert "permission to read" in caplog.text


async def test_a_message_made_readable_is_delivered(open_root):
    unreadable = open_root / QUEUE / "a"
    unreadable.write_text('"a"')
    unreadable.chmod(0)
    with as_somebody_else():
        async with LocalBroker(open_root, OPTIONS) as broker, consuming(broker) as next_one:
            waiting = next_one()
            assert not await comes(waiting)
            with becoming_root_again():
                unreadable.chmod(0o644)
            assert (await waiting).body == b'"a"'


@contextmanager
def becoming_root_again():
    user = os.geteuid()
    if os.getuid() == 0:
        os.seteuid(0)
    try:
        yield
    finally:
        os.seteuid(user)


async def test_an_unreadable_queue_is_said_once_and_the_others_go_on(open_root, caplog):
    (open_root / "local_b").mkdir()
    (open_root / "local_b").chmod(0)
    (open_root / QUEUE / "a").write_text("{}")
    with as_somebody_else():
        async with LocalBroker(open_root, OPTIONS) as broker:
            assert list(await broker.queues()) == [QUEUE, "local_b"]
            async with consuming(broker) as good, consuming(broker, "local_b") as bad:
                waiting = bad()
                assert (await good()).body == b"{}"
                assert not await comes(waiting, 0.5)
                assert caplog.text.count("Permission denied") == 1


async def test_a_queue_that_may_not_be_written_is_said_once(open_root, caplog):
    (open_root / QUEUE / "a").write_text("{}")
    (open_root / QUEUE).chmod(0o555)
    with as_somebody_else():
        async with LocalBroker(open_root, OPTIONS) as broker, consuming(broker) as next_one:
            waiting = next_one()
            assert not await comes(waiting, 0.5)
            assert caplog.text.count("Permission denied") == 1


async def test_a_root_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    async with LocalBroker(tmp_path / "file" / "queue", OPTIONS) as broker:
        with pytest.raises(BrokerError, match="cannot be used") as caught:
            await take(broker)
        assert "--queue-root" in caught.value.hint
        with pytest.raises(BrokerError, match="adding a message failed"):
            await broker.publish(QUEUE, b"{}")


async def test_names_that_lead_out_of_the_root_are_refused(broker):
    with pytest.raises(BrokerError):
        await broker.publish("../elsewhere", b"{}")
    with pytest.raises(BrokerError):
        await broker.exists("a/b")


# -- coming and going ---------------------------------------------------------------------------------------------


async def test_looking_at_queues_makes_nothing(root):
    async with LocalBroker(root, OPTIONS) as broker:
        assert list(await broker.queues()) == []
        assert not await broker.exists(QUEUE)
    assert not root.exists()


async def test_the_first_runner_makes_the_root_for_its_user_alone(root):
    async with LocalBroker(root, OPTIONS) as broker, consuming(broker) as next_one:
        assert not await comes(next_one())
        assert stat.S_IMODE(root.stat().st_mode) == 0o700


async def test_new_and_deleted_queues_are_noticed(broker, root, notification):
    assert list(await broker.queues()) == []
    changed = asyncio.ensure_future(broker.changed())
    assert not await comes(changed)
    (root / QUEUE).mkdir()
    await asyncio.wait_for(changed, PATIENCE)
    assert list(await broker.queues()) == [QUEUE]
    changed = asyncio.ensure_future(broker.changed())
    assert not await comes(changed)
    (root / QUEUE).rmdir()
    await asyncio.wait_for(changed, PATIENCE)
    assert list(await broker.queues()) == []


async def test_files_and_dot_names_in_the_root_are_no_queues(broker, root):
    await broker.publish(QUEUE, b"{}")
    (root / "is_active.queue").touch()
    (root / ".git").mkdir()
    assert list(await broker.queues()) == [QUEUE]


async def test_a_queue_made_after_its_consumer(broker, root, notification):
    async with consuming(broker) as next_one:
        waiting = next_one()
        assert not await comes(waiting)
        (root / QUEUE).mkdir()
        (root / QUEUE / "a").write_text("{}")
        assert (await waiting).body == b"{}"


async def test_a_queue_deleted_and_made_again(broker, queue, notification):
    async with consuming(broker) as next_one:
        waiting = next_one()
        assert not await comes(waiting)
        queue.rmdir()
        assert not await comes(waiting)
        queue.mkdir()
        (queue / "a").write_text('"a"')
        assert (await waiting).body == b'"a"'
        (queue / "b").write_text('"b"')
        assert (await next_one()).body == b'"b"'


async def test_deleting_the_queue_gives_up_what_came_from_it(broker, queue):
    (queue / "a").write_text("{}")
    delivery = await take(broker)
    await delivery.extend()
    queue.rmdir()
    with pytest.raises(LeaseLostError, match="was deleted"):
        await delivery.extend()


async def test_a_delayed_message_of_a_deleted_queue_is_not_run_again(broker, queue):
    (queue / "a").write_text("{}")
    delivery = await take(broker)
    await delivery.requeue(0.5)
    queue.rmdir()
    async with asyncio.timeout(PATIENCE):
        while not await broker.dead_letters(QUEUE):
            await asyncio.sleep(0.02)
    assert not queue.exists()


async def test_a_broker_that_ends_returns_what_it_holds_uncharged(root, queue):
    (queue / "a").write_text("{}")
    async with LocalBroker(root, OPTIONS) as broker:
        await take(broker)
        assert list(queue.iterdir()) == []
    assert [path.name for path in queue.iterdir()] == ["a"]
    assert list((root / ".studio-runner" / "runners").iterdir()) == []


async def test_an_error_in_the_middle_ends_the_broker_as_cleanly(root, queue):
    (queue / "a").write_text("{}")

    async def fail():
        async with LocalBroker(root, OPTIONS) as broker:
            await take(broker)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert [path.name for path in queue.iterdir()] == ["a"]
    assert list((root / ".studio-runner" / "runners").iterdir()) == []


async def test_two_runners_of_one_name_are_told_apart(root, queue):
    (queue / "a").write_text("{}")
    async with LocalBroker(root, OPTIONS) as one, LocalBroker(root, OPTIONS) as other, consuming(other) as next_one:
        delivery = await take(one)
        assert not await comes(next_one(), OPTIONS.lease * 1.5)
        await delivery.ack()


async def test_a_broker_ends_however_busy_its_caretaker_is(root, queue):
    """A delayed message wakes the caretaker; the broker may end at that very moment."""
    for turn in range(20):
        (queue / f"m{turn}").write_text("{}")
        async with LocalBroker(root, OPTIONS) as broker:
            delivery = await take(broker)
            await asyncio.sleep(0.005 * (turn % 4))
            await delivery.requeue(60)


async def test_a_delayed_message_of_a_runner_that_ended_is_returned_by_another(root, queue):
    (queue / "a").write_text("{}")
    async with LocalBroker(root, OPTIONS) as broker:
        await (await take(broker)).requeue(0.3)
    async with LocalBroker(root, OPTIONS) as broker:
        assert (await take(broker)).attempts == 1


async def test_a_runner_that_cannot_tell_how_it_died_loses_its_claims_after_the_lease(root, queue):
    """Its machine is off: there is a claim, and a heartbeat that stands still."""
    state = root / ".studio-runner"
    claimed = state / "queues" / QUEUE / "claimed"
    claimed.mkdir(parents=True)
    (claimed / "far.away.1234~1~2~a").write_text("{}")
    (state / "runners").mkdir()
    (state / "runners" / "far.away.1234").write_text(
        '{"host": "far", "boot": "x", "namespace": "", "pid": 1, "start": ""}'
    )
    async with LocalBroker(root, OPTIONS) as broker, consuming(broker) as next_one:
        waiting = next_one()
        assert not await comes(waiting, OPTIONS.lease / 2)
        assert (await waiting).attempts == 3
        async with asyncio.timeout(PATIENCE):
            while (state / "runners" / "far.away.1234").exists():
                await asyncio.sleep(0.01)


async def test_things_that_cannot_be_removed_do_not_keep_claims_from_returning(root, queue, caplog):
    state = root / ".studio-runner"
    claimed = state / "queues" / QUEUE / "claimed"
    claimed.mkdir(parents=True)
    (claimed / "gone.1~1~0~a").write_text("{}")
    for odd in (state / "runners" / "a-directory", state / "queues" / QUEUE / "incoming" / "another"):
        (odd / "inside").mkdir(parents=True)
        os.utime(odd, (1, 1))
    async with LocalBroker(root, OPTIONS) as broker:
        delivery = await take(broker)
        assert delivery.attempts == 1
        await asyncio.sleep(5 * OPTIONS.poll)
        await delivery.ack()
    for name in ("a-directory", "another"):
        assert caplog.text.count(f"{name}: left behind and cannot be removed") == 1


async def test_what_killed_processes_left_is_cleared_away(root, queue):
    state = root / ".studio-runner" / "queues" / QUEUE
    for directory in ("incoming", "dead"):
        (state / directory).mkdir(parents=True)
    gone = root / ".studio-runner" / "queues" / "local_gone"
    (gone / "claimed").mkdir(parents=True)
    old = [state / "incoming" / "unfinished", state / "dead" / "a.reason.json"]
    recent = [state / "incoming" / "being-written", state / "dead" / "b.reason.json"]
    for path in old + recent:
        path.write_text("{}")
    for path in old:
        os.utime(path, (1, 1))
    async with LocalBroker(root, OPTIONS) as broker, consuming(broker) as next_one:
        next_one()
        async with asyncio.timeout(PATIENCE):
            while any(path.exists() for path in old) or gone.exists():
                await asyncio.sleep(0.02)
    assert all(path.exists() for path in recent)


async def test_a_queue_is_removed_when_nothing_waits_in_it(broker, root):
    await broker.publish(QUEUE, b"{}")
    assert not await broker.remove(QUEUE)
    delivery = await take(broker)
    assert not await broker.remove(QUEUE)
    await delivery.requeue(0.1)
    assert not await broker.remove(QUEUE)
    await (await take(broker)).ack()
    assert await broker.remove(QUEUE)
    assert not await broker.exists(QUEUE)
    assert not (root / ".studio-runner" / "queues" / QUEUE).exists()
    assert await broker.remove("local_never")


async def test_a_removed_queue_keeps_its_dead_letters(broker):
    await broker.publish(QUEUE, b"{}")
    await (await take(broker)).dead_letter("no")
    assert await broker.remove(QUEUE)
    assert [letter.reason for letter in await broker.dead_letters(QUEUE)] == ["no"]
    assert await broker.revive(QUEUE) == 1
    assert await broker.exists(QUEUE)


async def test_without_inotify_it_is_said_once(root, monkeypatch, caplog):
    monkeypatch.setattr(watch, "InotifyWatch", NoInotify)
    async with (
        LocalBroker(root, OPTIONS) as broker,
        consuming(broker) as one,
        consuming(broker, "local_b") as other,
    ):
        for wait in (one, other):
            assert not await comes(wait(), 0.05)
    assert caplog.text.count("max_user_instances") == 1


@pytest.mark.parametrize(("root", "below"), [(0o2770, 0o2770), (0o700, 0o700)], ids=["of a group", "of one user"])
async def test_what_comes_into_a_root_is_as_open_as_the_root(tmp_path, root, below):
    place = tmp_path / "root"
    place.mkdir()
    place.chmod(root)
    before = os.umask(0o077)
    try:
        async with LocalBroker(place, OPTIONS) as broker:
            await broker.publish(QUEUE, b"{}")
            await (await take(broker)).requeue(60.0)
            await broker.publish(QUEUE, b"{}")
            await (await take(broker)).dead_letter("not good")
            await broker.publish(QUEUE, b"{}")
            held = await take(broker)
            found = {path: stat.S_IMODE(path.stat().st_mode) for path in place.rglob("*")}
            await held.ack()
    finally:
        os.umask(before)

    names = {path.name for path in found}
    assert {QUEUE, "claimed", "delayed", "dead", "incoming", "runners", "queues"} <= names
    for path, mode in found.items():
        assert mode == (below if path.is_dir() else below & 0o666), path
