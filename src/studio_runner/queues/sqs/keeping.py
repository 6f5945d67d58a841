"""What people do with an SQS queue: count it, read its dead letters, put them back, withdraw an experiment."""

from collections.abc import Sequence

from studio_runner.messages.naming import is_called
from studio_runner.queues.base import DeadLetter, QueueStatus
from studio_runner.queues.sqs.dead import DeadLetters, look_through
from studio_runner.queues.sqs.faults import QueueMissingError
from studio_runner.queues.sqs.listing import QueueList


class Keeping:
    """A queue that does not exist has no messages."""

    def __init__(self, queues: QueueList, graves: DeadLetters) -> None:
        self._queues, self._graves = queues, graves

    async def status(self, name: str) -> QueueStatus:
        queue = await self._queues.find(name)
        if queue is None:
            return QueueStatus(name, 0, 0, 0, 0)
        try:
            counts = await queue.counts()
        except QueueMissingError:
            return QueueStatus(name, 0, 0, 0, 0)
        dead = await self._graves.count(queue)
        return QueueStatus(name, counts["waiting"], counts["held"], counts["delayed"], dead)

    async def dead_letters(self, name: str) -> Sequence[DeadLetter]:
        queue = await self._queues.find(name)
        return [] if queue is None else await self._graves.letters(queue)

    async def revive(self, name: str, letter: str | None) -> int:
        queue = await self._queues.find(name)
        return 0 if queue is None else await self._graves.revive(queue, letter)

    async def withdraw(self, name: str, message_name: str) -> bool:
        """Goes through the messages that are visible now; delayed ones SQS shows to nobody."""
        queue = await self._queues.find(name)
        if queue is None:
            return False
        found = await look_through(queue)
        wanted = [message for message in found if is_called(message.body, message_name)]
        for message in wanted:
            await queue.delete(message)
        await queue.give_back([message for message in found if message not in wanted])
        return bool(wanted)
