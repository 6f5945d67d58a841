"""AMQP 0-9-1 as far as this package needs it. The only module that knows the client library (aiormq); its errors
become the project's own here.

The library closes a channel when a call on it is cancelled: callers go through `errands.Errands`.
"""

import asyncio
import logging
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import aiormq
from aiormq import exceptions as theirs
from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage
from pamqp.commands import Basic, Connection
from pamqp.header import ContentHeader
from yarl import URL

from studio_runner.errors import BrokerError
from studio_runner.messages.jsontext import nested_deeper
from studio_runner.queues.rabbitmq.options import Address
from studio_runner.queues.rabbitmq.trouble import (
    BlockedError,
    ForbiddenError,
    FullError,
    LinkLostError,
    MismatchError,
    MissingError,
    UnroutableError,
    connection_error,
)

HEARTBEAT = 10
CONNECT_SECONDS = 20.0
ANSWER_SECONDS = 30.0
"""For an answer of the broker; then the connection is given up."""
CLOSE_SECONDS = 5.0

# It reports as errors what is for us to judge, with a traceback.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)


DEEPEST_HEADER = 32
"""Tables and lists within each other in the headers of a message."""

Result = TypeVar("Result")

_unmarshal = ContentHeader.unmarshal


def _read_header(header: ContentHeader, data: bytes) -> None:
    """What the library cannot read, or could not send on, counts as absent. It would give up the whole connection
    for what a sender wrote there, and again whenever the broker delivers the message again."""
    try:
        _unmarshal(header, data)
        header.properties.marshal()
        readable = not nested_deeper(header.properties.headers, DEEPEST_HEADER)
    except Exception:  # noqa: BLE001 - whatever hostile bytes make of its decoders
        readable = False
    if not readable:
        header.class_id, header.weight, header.body_size = struct.unpack_from(">HHQ", data)
        header.properties = Basic.Properties()


ContentHeader.unmarshal = _read_header  # type: ignore[assignment, method-assign]


@dataclass(frozen=True)
class Properties:
    """Of a message, as they are sent on with a new copy of it."""

    headers: Mapping[str, Any] = field(default_factory=dict)
    content_type: str | None = None
    content_encoding: str | None = None
    persistent: bool = False
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    message_id: str | None = None
    kind: str | None = None
    app_id: str | None = None
    expiration: str | None = None
    """Milliseconds. Not of messages that were received: a copy of a request does not expire."""


@dataclass(frozen=True)
class Message:
    """One that the broker handed to a channel, to be settled there by its tag."""

    channel: "Channel"
    tag: int
    body: bytes
    redelivered: bool
    properties: Properties


class Channel:
    """A channel; closed for good when the broker refuses something on it."""

    def __init__(self, channel: AbstractChannel, wire: "Wire") -> None:
        self._channel = channel
        self._wire = wire
        self.listeners: dict[str, Callable[[], None]] = {}
        """By the tag of a consumer: whom to tell when the broker ends it, or the channel closes."""
        channel.on_consumer_cancel_callbacks.add(self._on_cancelled)
        channel.closing.add_done_callback(self._on_closed)

    @property
    def is_open(self) -> bool:
        return self._wire.is_open and not self._channel.is_closed

    def _on_cancelled(self, frame: Basic.Cancel) -> None:
        if ended := self.listeners.get(frame.consumer_tag or ""):
            ended()

    def _on_closed(self, _: object) -> None:
        for ended in list(self.listeners.values()):
            ended()

    async def prefetch(self, count: int) -> None:
        """For each consumer from now on."""
        await self._wire.call(self._channel.basic_qos(prefetch_count=count))

    async def barrier(self) -> None:
        """Return once the broker has seen everything that was sent on this channel before."""
        await self.prefetch(1)

    async def get(self, queue: str) -> Message | None:
        found = await self._wire.call(self._channel.basic_get(queue))
        return None if isinstance(found.delivery, Basic.GetEmpty) else self._message(found)

    async def consume(self, queue: str, tag: str, call: Callable[[Message], None]) -> None:
        async def deliver(found: DeliveredMessage) -> None:
            call(self._message(found))

        await self._wire.call(self._channel.basic_consume(queue, deliver, consumer_tag=tag))

    async def cancel(self, tag: str) -> None:
        """Return once nothing more comes for `tag`."""
        await self._wire.call(self._channel.basic_cancel(tag))

    async def ack(self, tag: int) -> None:
        await self._wire.call(self._channel.basic_ack(tag, wait=False))

    async def nack(self, tag: int) -> None:
        """Put it back to where it was in its queue."""
        await self._wire.call(self._channel.basic_nack(tag, requeue=True, wait=False))

    async def nack_all(self) -> None:
        """Put back everything that was handed to this channel and is not settled."""
        await self._wire.call(self._channel.basic_nack(0, multiple=True, requeue=True, wait=False))

    async def count(self, queue: str) -> int:
        """Messages of `queue` that are ready; MissingError when there is no such queue."""
        answer = await self._wire.call(self._channel.queue_declare(queue, passive=True))
        return answer.message_count or 0

    async def declare(self, queue: str, arguments: Mapping[str, Any] | None = None) -> None:
        """A durable queue."""
        await self._wire.call(self._channel.queue_declare(queue, durable=True, arguments=dict(arguments or {})))

    async def declare_exchange(self, name: str) -> None:
        """A topic exchange as StudioML's clients declare it."""
        await self._wire.call(
            self._channel.exchange_declare(name, exchange_type="topic", durable=True, auto_delete=True)
        )

    async def bind(self, queue: str, exchange: str, routing_key: str) -> None:
        await self._wire.call(self._channel.queue_bind(queue, exchange, routing_key))

    async def delete(self, queue: str) -> None:
        """If it is empty and nobody consumes it; MismatchError when not."""
        await self._wire.call(self._channel.queue_delete(queue, if_unused=True, if_empty=True))

    async def publish(
        self, exchange: str, routing_key: str, body: bytes, properties: Properties, *, patience: float | None
    ) -> None:
        """Return once the broker has it in a queue; UnroutableError when there is none."""
        sending = self._channel.basic_publish(
            body,
            exchange=exchange,
            routing_key=routing_key,
            properties=_encoded(properties),
            mandatory=True,
        )
        await self._wire.call(sending, patience)

    async def close(self) -> None:
        await self._wire.call(self._channel.close())

    def _message(self, found: DeliveredMessage) -> Message:
        return Message(
            channel=self,
            tag=found.delivery_tag or 0,
            body=found.body,
            redelivered=bool(found.redelivered),
            properties=_decoded(found.header.properties),
        )


class _Refusals:
    """Frames as they come, while the connection is set up; a refusal is raised with the broker's words, which the
    library leaves out."""

    def __init__(self, receiver: Any) -> None:
        self._receiver = receiver

    async def get_frame(self) -> Any:
        found = await self._receiver.get_frame()
        if isinstance(found[2], Connection.Close):
            raise theirs.ConnectionClosed(found[2].reply_code, found[2].reply_text)
        return found


class _Connection(aiormq.Connection):
    @staticmethod
    async def _rpc(request: Any, writer: Any, frame_receiver: Any, wait_response: bool = True) -> Any:  # noqa: FBT001, FBT002
        return await aiormq.Connection._rpc(request, writer, _Refusals(frame_receiver), wait_response)  # type: ignore[arg-type]  # noqa: SLF001


class Wire:
    """One connection."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closing: asyncio.Task[None] | None = None
        connection.closing.add_done_callback(lambda _: self._lose())

    @classmethod
    async def open(cls, address: Address, context: ssl.SSLContext | None, name: str) -> Self:
        """BrokerError that says what is wrong, where and as whom."""
        url = URL.build(
            scheme=address.scheme,
            user=address.user,
            password=address.password,
            host=address.host,
            port=address.port,
            path="/",
            query={"heartbeat": str(HEARTBEAT)},
        )
        connection = _Connection(url, context=context, client_properties={"connection_name": name})
        connection.vhost = address.vhost
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await connection.connect()
        except (OSError, EOFError, StopAsyncIteration, RuntimeError, theirs.AMQPError) as error:
            raise connection_error(address, error) from error
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            raise connection_error(address, error) from error
        return cls(connection)

    @property
    def is_open(self) -> bool:
        return not self._gone.done()

    async def lost(self) -> None:
        """Return when the connection is no more."""
        await asyncio.wait([self._gone])

    async def call(self, work: Awaitable[Result], patience: float | None = ANSWER_SECONDS) -> Result:
        """What the library makes of `work`; LinkLostError when the connection breaks, whether the library notices
        what that means for `work` or not. A broker that owes an answer for so long is given up."""
        task = asyncio.ensure_future(work)
        try:
            either: list[asyncio.Future[Any]] = [task, self._gone]
            await asyncio.wait(either, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
                task.add_done_callback(_hear)
        async with _translated():
            if task.done():
                return task.result()
            if self._gone.done():
                raise LinkLostError("the connection to RabbitMQ broke")
        blocked = await self.is_blocked()
        self.give_up()
        raise (
            BlockedError("RabbitMQ takes no messages now") if blocked else LinkLostError("RabbitMQ did not answer")
        )

    async def channel(self, *, confirms: bool = False) -> Channel:
        return Channel(
            await self.call(self._connection.channel(publisher_confirms=confirms, frame_buffer_size=0)), self
        )

    async def is_blocked(self) -> bool:
        """Whether the broker takes nothing new, for want of memory or disk."""
        try:
            async with asyncio.timeout(0.02):
                await self._connection.ready()
        except TimeoutError:
            return True
        return False

    def give_up(self) -> None:
        """Of no use any more."""
        self._lose()
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._connection.close())
            self._closing.add_done_callback(_hear)

    async def close(self) -> None:
        """As politely as the broker lets us."""
        self.give_up()
        if self._closing is not None:
            await asyncio.wait([self._closing], timeout=CLOSE_SECONDS)

    def _lose(self) -> None:
        if not self._gone.done():
            self._gone.set_result(None)


def _hear(task: "asyncio.Future[Any]") -> None:
    """Nobody else asks what became of it."""
    if not task.cancelled():
        task.exception()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except theirs.ChannelNotFoundEntity as error:
        raise MissingError(_words(error)) from error
    except theirs.ChannelAccessRefused as error:
        raise ForbiddenError(_words(error)) from error
    except (theirs.ChannelPreconditionFailed, theirs.ChannelLockedResource) as error:
        raise MismatchError(_words(error)) from error
    except theirs.DeliveryError as error:
        raise _undelivered(error) from error
    except (theirs.AMQPError, OSError, RuntimeError) as error:  # of OSError also: TimeoutError
        raise LinkLostError(f"the connection to RabbitMQ broke: {_words(error)}") from error
    except asyncio.CancelledError as error:
        # The library ends calls like this when channel or connection are closed.
        if _is_cancelled():
            raise
        raise LinkLostError("the connection to RabbitMQ broke") from error
    except Exception as error:
        # It raises nothing more than `Exception` in calls that were waiting when a channel closed in peace.
        if type(error) is not Exception:
            raise
        raise LinkLostError("the connection to RabbitMQ was closed") from error


def _undelivered(error: theirs.DeliveryError) -> BrokerError:
    """The broker had the message whole."""
    if isinstance(error, theirs.PublishError):
        return UnroutableError("no queue takes the message")
    return FullError(
        "the queue does not take the message", hint="is it full? see its limits, and those of policies"
    )


def _words(error: BaseException) -> str:
    return ", ".join(str(part) for part in error.args if part) or type(error).__name__


def _decoded(found: Basic.Properties) -> Properties:
    return Properties(
        headers=found.headers or {},
        content_type=found.content_type,
        content_encoding=found.content_encoding,
        persistent=found.delivery_mode == 2,
        priority=found.priority,
        correlation_id=found.correlation_id,
        reply_to=found.reply_to,
        message_id=found.message_id,
        kind=found.message_type,
        app_id=found.app_id,
    )


def _encoded(properties: Properties) -> Basic.Properties:
    return Basic.Properties(
        headers=dict(properties.headers),
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        delivery_mode=2 if properties.persistent else 1,
        priority=properties.priority,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        message_id=properties.message_id,
        message_type=properties.kind,
        app_id=properties.app_id,
        expiration=properties.expiration,
    )
