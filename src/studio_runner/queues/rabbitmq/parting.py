"""Where a message goes that this runner gives away: back to its queue, to wait, or to the dead letters."""

import socket
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from studio_runner.errors import BrokerError
from studio_runner.queues.base import DeadLetter
from studio_runner.queues.rabbitmq.naming import QueueName, round_delay
from studio_runner.queues.rabbitmq.passport import LONGEST_REASON, Passport
from studio_runner.queues.rabbitmq.site import Site
from studio_runner.queues.rabbitmq.trouble import ForbiddenError, UnroutableError
from studio_runner.queues.rabbitmq.wire import Message, Properties

DEATH = "x-studio-runner-death"
DELAY_QUEUE_OUTLIVES = 60
"""Seconds after the last message is due until the broker deletes a delay queue that nobody used again."""


class Content(Protocol):
    """What is sent on."""

    @property
    def body(self) -> bytes: ...
    @property
    def properties(self) -> Properties: ...


@dataclass(frozen=True)
class Parting:
    """Publishes; the caller lets go of its own copy afterwards."""

    queue: QueueName
    site: Site

    async def put_back(self, message: Content, passport: Passport, delay: float) -> None:
        """UnroutableError when the queue is gone. Where queues may not be declared there is no delay."""
        target = self.queue.name
        if delay > 0:
            with suppress(ForbiddenError):
                target = await self._delay_queue(round_delay(delay))
        headers = passport.headers(_without_death(message.properties))
        properties = replace(message.properties, headers=headers)
        await self.site.press.publish(target, message.body, properties)

    async def bury(self, message: Content, passport: Passport, reason: str) -> None:
        headers = passport.headers(message.properties.headers)
        headers[DEATH] = {
            "reason": reason[: 10 * LONGEST_REASON],
            "at": datetime.now(UTC).isoformat(),
            "host": socket.gethostname(),
            "name": uuid.uuid4().hex,
        }
        with suppress(ForbiddenError):  # somebody else may have declared it
            async with self.site.press.channel() as channel:
                await channel.declare(self.queue.dead)
        properties = replace(message.properties, headers=headers, persistent=True)
        try:
            await self.site.press.publish(self.queue.dead, message.body, properties)
        except UnroutableError as error:
            raise BrokerError(
                f"dead letters of queue {self.queue.name} have no place: queue {self.queue.dead} does not exist",
                hint="declare it (durable), or let the runner's user configure ^studio-runner\\.",
            ) from error

    async def _delay_queue(self, seconds: int) -> str:
        """Its name. Declaring it again gives it another time to live."""
        name = self.queue.delayed(seconds)
        arguments = {
            "x-queue-type": "classic",
            "x-message-ttl": seconds * 1000,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self.queue.name,
            "x-expires": (seconds + DELAY_QUEUE_OUTLIVES) * 1000,
        }
        async with self.site.press.channel() as channel:
            await channel.declare(name, arguments)
        return name


def dead_letter(queue: str, message: Message) -> DeadLetter:
    """As people see it."""
    death = message.properties.headers.get(DEATH)
    note = death if isinstance(death, dict) else {}
    passport = Passport.of(message.properties.headers)
    return DeadLetter(
        queue=queue,
        name=str(note.get("name", passport.id)),
        reason=str(note.get("reason", "the reason was not kept")),
        at=_time(note.get("at")),
        attempts=passport.attempts,
        body=message.body,
        history=passport.history,
    )


def _without_death(properties: Properties) -> dict[str, Any]:
    return {name: value for name, value in properties.headers.items() if name != DEATH}


def _time(text: object) -> datetime:
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
