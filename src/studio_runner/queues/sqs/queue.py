"""One SQS queue: receiving, hiding, sending and deleting its messages."""

import hashlib
import json
import math
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from studio_runner.queues.sqs.account import Account
from studio_runner.queues.sqs.faults import SIZE_HINT, TooLargeError
from studio_runner.queues.sqs.messages import LARGEST, Message, Outgoing

BATCH = 10
BATCH_BYTES = 256 * 1024
"""Of all messages of one request: what every service takes."""
LONGEST_DELAY = 900.0
REMEMBERED = 10_000


@dataclass(frozen=True)
class Redrive:
    """A queue's redrive policy: where its dead letters go, and after how many receipts."""

    name: str
    account_id: str
    receives: int


class SqsQueue:
    """Shared by everything in this process that uses the queue."""

    def __init__(self, account: Account, name: str, url: str) -> None:
        self.account, self.name, self.url = account, name, url
        self._pardons: OrderedDict[str, int] = OrderedDict()

    @property
    def fifo(self) -> bool:
        return self.name.endswith(".fifo")

    async def receive(self, limit: int, wait: float, visibility: float) -> list[Message]:
        """Up to `limit` messages, hidden from everybody else for `visibility` seconds."""
        answer = await self.account.call(
            "receive_message",
            f"receiving from queue {self.name}",
            QueueUrl=self.url,
            MaxNumberOfMessages=min(limit, BATCH),
            WaitTimeSeconds=int(wait),
            VisibilityTimeout=math.ceil(visibility),
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["All"],
        )
        return [self._pardoned(Message.of(found)) for found in answer.get("Messages", ())]

    async def hide(self, message: Message, seconds: float) -> None:
        """From now on for so long; 0 lets everybody see it. HandleInvalidError when it is not held any more."""
        await self.account.call(
            "change_message_visibility",
            f"renewing the lease of a message of queue {self.name}",
            QueueUrl=self.url,
            ReceiptHandle=message.handle,
            VisibilityTimeout=math.ceil(seconds),
        )

    async def delete(self, message: Message) -> None:
        await self.account.call(
            "delete_message",
            f"deleting a message of queue {self.name}",
            QueueUrl=self.url,
            ReceiptHandle=message.handle,
        )

    async def send(self, message: Outgoing, delay: float = 0.0) -> str:
        """Its message id. `delay` at most 900 s, and none on a FIFO queue."""
        self._check_size(message)
        answer = await self.account.call(
            "send_message",
            f"sending a message to queue {self.name}",
            QueueUrl=self.url,
            MessageBody=message.text,
            MessageAttributes=dict(message.attributes),
            **self._order(message),
            **({} if self.fifo else {"DelaySeconds": math.ceil(delay)}),
        )
        return str(answer["MessageId"])

    async def give_back(self, messages: Sequence[Message]) -> None:
        """For everybody to see, as they were: this receipt is not charged.

        A receipt cannot be undone, so copies with the right count take their place, in a queue that keeps no order
        anyway. A FIFO queue keeps its order: there this process remembers what it must not charge, and
        other runners cannot know.
        """
        copied = [message for message in messages if not self.fifo and message.can_be_copied]
        for batch in _batches(copied):
            await self._replace(batch)
        for message in messages:
            if message not in copied:
                await self.uncover(message)

    async def uncover(self, message: Message) -> None:
        """Let everybody see it, uncharged as far as this process is concerned."""
        self.pardon(message)
        await self.hide(message, 0)

    def pardon(self, message: Message) -> None:
        """Do not charge this receipt."""
        self._pardons[message.id] = self._pardons.pop(message.id, 0) + 1
        if len(self._pardons) > REMEMBERED:
            self._pardons.popitem(last=False)

    async def counts(self) -> dict[str, int]:
        """Approximate numbers of messages: `waiting`, `held` and `delayed`."""
        names = {
            "waiting": "ApproximateNumberOfMessages",
            "held": "ApproximateNumberOfMessagesNotVisible",
            "delayed": "ApproximateNumberOfMessagesDelayed",
        }
        found = await self._attributes(list(names.values()))
        return {ours: int(found.get(name, 0)) for ours, name in names.items()}

    async def redrive(self) -> Redrive | None:
        """Its redrive policy, if it has one."""
        policy = (await self._attributes(["RedrivePolicy"])).get("RedrivePolicy")
        try:
            values = json.loads(policy) if policy else {}
            parts = str(values["deadLetterTargetArn"]).split(":")
            return Redrive(parts[5], parts[4], int(values["maxReceiveCount"]))
        except (ValueError, TypeError, KeyError, IndexError):
            return None

    async def _attributes(self, names: list[str]) -> dict[str, str]:
        doing = f"asking about queue {self.name}"
        answer = await self.account.call("get_queue_attributes", doing, QueueUrl=self.url, AttributeNames=names)
        return dict(answer.get("Attributes", {}))

    async def _replace(self, batch: Sequence[Message]) -> None:
        """Copies for originals; what cannot be copied is shown again as it is."""
        entries = [
            {"Id": str(number), "MessageBody": copy.text, "MessageAttributes": dict(copy.attributes)}
            for number, copy in enumerate(message.copy(message.kept_note()) for message in batch)
        ]
        doing = f"giving messages back to queue {self.name}"
        try:
            answer = await self.account.call("send_message_batch", doing, QueueUrl=self.url, Entries=entries)
        except TooLargeError:
            answer = {}
        sent = {int(entry["Id"]) for entry in answer.get("Successful", ())}
        originals = [
            {"Id": str(number), "ReceiptHandle": message.handle}
            for number, message in enumerate(batch)
            if number in sent
        ]
        if originals:
            await self.account.call("delete_message_batch", doing, QueueUrl=self.url, Entries=originals)
        for number, message in enumerate(batch):
            if number not in sent:
                await self.uncover(message)

    def _check_size(self, message: Outgoing) -> None:
        if message.size > LARGEST:
            raise TooLargeError(
                f"a message of {message.size} bytes is too large for queue {self.name}: SQS takes {LARGEST}",
                hint=SIZE_HINT,
            )

    def _order(self, message: Outgoing) -> Mapping[str, Any]:
        """What a FIFO queue wants to know. Every message is one of its own to us, whatever it says."""
        if not self.fifo:
            return {}
        group = message.group or hashlib.sha256(message.text.encode()).hexdigest()
        return {"MessageGroupId": group, "MessageDeduplicationId": uuid.uuid4().hex}

    def _pardoned(self, message: Message) -> Message:
        pardons = self._pardons.get(message.id, 0)
        return replace(message, note=replace(message.note, attempts=message.note.attempts - pardons))


def _batches(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """At most ten, and at most what one request may hold."""
    batch: list[Message] = []
    size = 0
    for message in messages:
        more = message.copy(message.kept_note()).size
        if batch and (len(batch) == BATCH or size + more > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += more
    if batch:
        yield batch
