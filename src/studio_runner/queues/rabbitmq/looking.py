"""One look at a request queue: take the first message that the gate admits, leave the others as they were."""

from dataclasses import dataclass

from studio_runner.queues.base import Gate, Ticket
from studio_runner.queues.rabbitmq.link import Session
from studio_runner.queues.rabbitmq.source import Source
from studio_runner.queues.rabbitmq.wire import Message

SHALLOW, DEEPEST = 16, 1024
"""Messages that are held for the moment of a look."""
DEEPER = 4
"""A look in vain is followed by one so many times as deep."""
LARGEST = 64 * 1024 * 1024
"""Bytes of messages that are held for the moment of a look."""


@dataclass(frozen=True)
class Admitted:
    """A message and the ticket for it."""

    message: Message
    ticket: Ticket

    async def give_back(self) -> None:
        self.ticket.release()
        if self.message.channel.is_open:
            await self.message.channel.nack(self.message.tag)


@dataclass(frozen=True)
class Look:
    """What came of it."""

    exists: bool
    admitted: Admitted | None = None
    refused: int = 0
    """Messages that were seen and left."""
    awaited: int = 0
    """How many had been seen with the one that room is held free for; 0: it was not among them."""

    async def give_back(self) -> None:
        if self.admitted is not None:
            await self.admitted.give_back()


async def look(source: Source, session: Session, gate: Gate, depth: int) -> Look:
    count = await session.count(source.name.name)
    source.note(session, exists=count is not None)
    if not count:
        return Look(exists=count is not None)
    return await _take(source, session, gate, depth)


async def _take(source: Source, session: Session, gate: Gate, depth: int) -> Look:
    channel = await session.asking()
    refused: list[Message] = []
    size = awaited = 0
    try:
        while len(refused) < depth and size < LARGEST:
            message = await channel.get(source.name.name)
            if message is None:
                break
            if await source.recognise(message):
                continue
            ticket = None if source.belongs_to_another(message, session) else gate.admit(source.shown, message.body)
            if ticket is not None:
                return Look(True, Admitted(message, ticket), len(refused), awaited)
            refused.append(message)
            size += len(message.body)
            if gate.awaits(source.shown, message.body):
                awaited = len(refused)
        return Look(True, None, len(refused), awaited)
    finally:
        if channel.is_open:
            for message in refused:
                await source.leave(message)
