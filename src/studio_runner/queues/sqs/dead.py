"""Dead letters: in the target of the queue's redrive policy when it has one, else in a queue of our own."""

import time
from collections.abc import Sequence
from dataclasses import replace

from studio_runner.queues.base import DeadLetter
from studio_runner.queues.sqs.faults import HandleInvalidError, QueueMissingError, TooLargeError
from studio_runner.queues.sqs.listing import QueueList, dead_name
from studio_runner.queues.sqs.messages import Message, Note
from studio_runner.queues.sqs.queue import BATCH, SqsQueue

LOOK = 120.0
"""Seconds for which what a person looks through is hidden from others, should the look be cut short."""
MOST = 1000
"""Messages that one look goes through."""
PATIENCE = 20.0


class DeadLetters:
    """Of all queues."""

    def __init__(self, queues: QueueList) -> None:
        self._queues = queues

    async def bury(self, queue: SqsQueue, message: Message, note: Note) -> None:
        """A copy goes to the dead letters; the original stays for the caller to delete."""
        target = await self._target(queue)
        place = target or await self._queues.make(dead_name(queue.name), queue.account)
        note = replace(note, origin=queue.name, group=note.group or message.group)
        try:
            await place.send(message.copy(note))
        except TooLargeError:
            await place.send(message.as_it_was())  # no room for the reason

    async def count(self, queue: SqsQueue) -> int:
        """Of a shared target, those of other queues are counted too."""
        place = await self._place(queue)
        return (await place.counts())["waiting"] if place else 0

    async def letters(self, queue: SqsQueue) -> list[DeadLetter]:
        """Oldest death first."""
        place = await self._place(queue)
        if place is None:
            return []
        found = await look_through(place)
        await uncover(place, found)
        letters = [_letter(queue, message) for message in found if _is_of(queue, message)]
        return sorted(letters, key=lambda letter: (letter.at, letter.name))

    async def revive(self, queue: SqsQueue, name: str | None) -> int:
        """Back to the queue with a fresh budget."""
        place = await self._place(queue)
        if place is None:
            return 0
        found = await look_through(place)
        wanted = [message for message in found if _is_of(queue, message) and name in (None, message.identity)]
        await uncover(place, [message for message in found if message not in wanted])
        for message in wanted:
            await queue.send(message.copy(Note(identity=message.identity, taken=True, group=message.note.group)))
            await place.delete(message)
        return len(wanted)

    async def _place(self, queue: SqsQueue) -> SqsQueue | None:
        return await self._target(queue) or await self._queues.reach(queue.account, dead_name(queue.name))

    async def _target(self, queue: SqsQueue) -> SqsQueue | None:
        try:
            policy = await queue.redrive()
        except QueueMissingError:
            return None
        if policy is None:
            return None
        return await self._queues.reach(queue.account, policy.name, policy.account_id)


async def look_through(queue: SqsQueue) -> list[Message]:
    """All messages that are visible now, as far as one look goes; they are hidden for a while."""
    wanted = min(MOST, (await queue.counts())["waiting"])
    deadline = time.monotonic() + PATIENCE
    found: dict[str, Message] = {}
    while len(found) < wanted and time.monotonic() < deadline:
        batch = await queue.receive(BATCH, 1, LOOK)
        if not batch:
            break
        found.update((message.id, message) for message in batch)
    return list(found.values())


async def uncover(queue: SqsQueue, messages: Sequence[Message]) -> None:
    for message in messages:
        try:
            await queue.uncover(message)
        except HandleInvalidError:
            continue  # the look took long: it is visible already


def _is_of(queue: SqsQueue, message: Message) -> bool:
    """Redrive targets may be shared; what SQS itself moved there does not always say where it was."""
    return message.note.origin in ("", queue.name)


def _letter(queue: SqsQueue, message: Message) -> DeadLetter:
    note = message.note
    reason = note.reason or "SQS set it aside: it was received too often (redrive policy) and never deleted"
    attempts = note.attempts if note.reason else message.attempts
    return DeadLetter(queue.name, message.identity, reason, message.sent_at, attempts, message.body, note.history)
