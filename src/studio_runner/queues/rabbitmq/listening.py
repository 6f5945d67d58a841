"""Waiting for the next message of an empty queue: the broker pushes it as soon as it comes."""

import asyncio
import uuid

from studio_runner.queues.rabbitmq.link import Session
from studio_runner.queues.rabbitmq.trouble import LinkLostError
from studio_runner.queues.rabbitmq.wire import Channel, Message


class Listener:
    """A consumer for one message."""

    def __init__(self, session: Session, channel: Channel, tag: str) -> None:
        self._session = session
        self._channel = channel
        self._tag = tag
        self._arrived: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()
        self._surplus: list[Message] = []

    @classmethod
    async def start(cls, session: Session, queue: str) -> "Listener":
        tag = f"studio-runner.{uuid.uuid4().hex}"
        channel = await session.listening(tag)
        listener = cls(session, channel, tag)
        channel.listeners[tag] = listener.ended
        try:
            await channel.consume(queue, tag, listener._arrive)
        except BaseException:
            listener._forget()
            raise
        return listener

    async def arrival(self) -> Message | None:
        """The message; None when the broker ended the consumer, as it does when the queue is deleted."""
        return await asyncio.shield(self._arrived)

    def ended(self) -> None:
        """By the broker, or with the channel."""
        if not self._arrived.done():
            self._arrived.set_result(None)

    async def stop(self) -> None:
        """Take nothing more; what came unasked goes back."""
        try:
            if self._channel.is_open:
                await self._channel.cancel(self._tag)
                for message in self._surplus:
                    await self._channel.nack(message.tag)
        except LinkLostError:
            pass  # it all goes back by itself
        finally:
            self._forget()

    async def discard(self) -> None:
        """Nobody waits for the message any more: it goes back if it came."""
        if self._arrived.done() and (message := self._arrived.result()) is not None:
            self._surplus.append(message)
        self.ended()
        await self.stop()

    def _arrive(self, message: Message) -> None:
        if self._arrived.done():
            self._surplus.append(message)
        else:
            self._arrived.set_result(message)

    def _forget(self) -> None:
        self._channel.listeners.pop(self._tag, None)
        self._session.unlisten(self._tag)
