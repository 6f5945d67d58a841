"""Whose results count."""

from collections.abc import AsyncIterator

import pytest

from studio_runner.errors import PreconditionFailedError, SupersededError, UnauthorisedError
from studio_runner.messages.request import parse_request
from studio_runner.runner.fence import NAME, Fence
from studio_runner.storage.base import ObjectInfo, Precondition
from studio_runner.storage.files import FileStore

MESSAGE = b'{"experiment": {"key": "k"}}'
MONDAY, TUESDAY = (b'{"experiment": {"key": "k", "time_added": %d}}' % time for time in (1000, 1001))
DONE = {"exit_msg": "ok", "experiment_id": "k"}


@pytest.fixture
def store(tmp_path) -> FileStore:
    return FileStore(tmp_path)


def fence(store, number=1, body=MESSAGE) -> Fence:
    return Fence(store, "experiments/k", parse_request(body), {"attempt": number})


async def delivered(store, results=DONE) -> None:
    one = fence(store)
    assert await one.approach(first=True) is None
    await one.commit(results)


async def test_the_first_attempt_leaves_nothing_until_it_delivers(store, tmp_path):
    one = fence(store)
    assert await one.approach(first=True) is None
    await one.hold()
    assert not (tmp_path / "experiments" / "k" / NAME).exists()
    await one.commit(DONE)
    await one.hold()


async def test_a_later_attempt_finds_what_was_delivered(store):
    await delivered(store)
    assert await fence(store, 2).approach(first=False) == DONE


async def test_one_that_was_believed_dead_cannot_deliver_after_its_successor_began(store):
    dead = fence(store)
    await dead.approach(first=True)
    successor = fence(store, 2)
    assert await successor.approach(first=False) is None
    with pytest.raises(SupersededError):
        await dead.hold()
    with pytest.raises(SupersededError):
        await dead.commit({"exit_msg": "of the dead"})
    await successor.hold()
    await successor.commit(DONE)
    assert await fence(store, 3).approach(first=False) == DONE


async def test_of_many_successors_the_last_one_counts(store):
    dead = fence(store)
    await dead.approach(first=True)
    successors = [fence(store, number) for number in (2, 3, 4)]
    for successor in successors:
        assert await successor.approach(first=False) is None
    for loser in (dead, *successors[:-1]):
        with pytest.raises(SupersededError):
            await loser.commit(DONE)
    await successors[-1].commit(DONE)


async def test_what_another_submission_under_the_key_delivered_is_not_taken_for_ours(store):
    await delivered(store)
    other = fence(store, 2, b'{"experiment": {"key": "k", "time_added": 2}}')
    assert await other.approach(first=False) is None
    await other.commit({"exit_msg": "ok", "experiment_id": "again"})


async def test_the_same_message_sent_again_runs_again(store):
    await delivered(store)
    again = fence(store)
    assert await again.approach(first=True) is None
    await again.hold()
    await again.commit(DONE)


async def test_what_is_no_document_is_taken_over(store, tmp_path):
    (tmp_path / "experiments" / "k").mkdir(parents=True)
    (tmp_path / "experiments" / "k" / NAME).write_bytes(b"\xff{")
    one = fence(store)
    assert await one.approach(first=False) is None
    await one.commit(DONE)


class Lossy(FileStore):
    """A store whose answer to a write gets lost once, so that the write is made again."""

    async def put(self, key: str, stream: AsyncIterator[bytes], *, when: Precondition | None = None) -> ObjectInfo:
        await super().put(key, stream, when=when)
        raise PreconditionFailedError("the second of two tries found the first one's object")


async def test_an_answer_that_got_lost_is_no_successor(tmp_path):
    one = fence(Lossy(tmp_path))
    await one.approach(first=True)
    await one.commit(DONE)
    assert await fence(FileStore(tmp_path), 2).approach(first=False) == DONE


class Closed(FileStore):
    """A store in which the sender may not write there."""

    async def put(self, key: str, stream: AsyncIterator[bytes], *, when: Precondition | None = None) -> ObjectInfo:
        raise UnauthorisedError("no")


async def test_credentials_that_do_not_reach_the_fence_do_without_it(tmp_path, caplog):
    one = fence(Closed(tmp_path))
    assert await one.approach(first=False) is None
    await one.hold()
    await one.commit(DONE)


async def test_what_was_submitted_before_what_is_there_is_outdated(store):
    assert not await fence(store, body=MONDAY).is_outdated()
    for body in (MONDAY, TUESDAY):
        one = fence(store, body=body)
        assert not await one.is_outdated()
        await one.approach(first=False)
        assert not await fence(store, 2, body).is_outdated()
    await one.commit(DONE)
    assert await fence(store, body=MONDAY).is_outdated()
    assert not await fence(store, body=TUESDAY).is_outdated()
