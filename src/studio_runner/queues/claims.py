"""Taking messages and settling them."""

import asyncio
import itertools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from studio_runner.errors import BrokerError, LeaseLostError, QueueDeletedError
from studio_runner.queues import moves
from studio_runner.queues.base import Ticket
from studio_runner.queues.layout import ClaimName, MessageName, QueuePlace
from studio_runner.queues.reading import Version, is_gone

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Claim:
    """A message in this runner's hands: where it lies, and what it is called in its queue."""

    place: QueuePlace
    path: Path
    message: MessageName


class LocalDelivery:
    """One claimed message. Whoever finds the claim gone was believed dead, and somebody else has the message."""

    def __init__(self, claim: Claim, body: bytes, ticket: Ticket, claims: "Claims") -> None:
        self._claim = claim
        self._body = body
        self._ticket = ticket
        self._claims = claims
        self._ended: BrokerError | None = None

    @property
    def body(self) -> bytes:
        return self._body

    @property
    def queue(self) -> str:
        return self._claim.place.name

    @property
    def attempts(self) -> int:
        return self._claim.message.attempts

    @property
    def redelivered(self) -> bool:
        return self.attempts > 0

    @property
    def ticket(self) -> Ticket:
        return self._ticket

    async def extend(self) -> None:
        """The heartbeat of the runner renews all its leases; here it shows whether this one still stands."""
        self._check_open()
        try:
            # Opened, not only looked up: that is what makes an NFS client ask its server.
            os.close(os.open(self._claim.path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if not is_gone(error):
                raise moves.broker_error("looking after a claim", self._claim.place, error) from error
            self._lose()
        if not self._claim.place.messages.is_dir():
            raise QueueDeletedError(
                f"queue {self.queue} was deleted",
                hint="deleting a queue gives up the experiments that came from it",
            )

    async def ack(self) -> None:
        self._check_open()
        try:
            self._claim.path.unlink()
        except FileNotFoundError:
            self._lose()
        except OSError as error:
            raise moves.broker_error("removing a finished message", self._claim.place, error) from error
        self._settle()

    async def requeue(self, delay: float = 0.0, *, charge: bool = True, reason: str = "") -> None:  # noqa: ARG002
        self._check_open()
        place, path = self._claim.place, self._claim.path
        message = self._claim.message.charged if charge else self._claim.message
        try:
            if delay > 0:
                moved = moves.postpone(place, path, message, delay)
                self._claims.on_postponed()
            else:
                moved = moves.put_back(place, path, message)
        except OSError as error:
            raise moves.broker_error("returning a message", place, error) from error
        if not moved:
            self._lose()
        self._settle()

    async def dead_letter(self, reason: str) -> None:
        self._check_open()
        place, path = self._claim.place, self._claim.path
        parting = moves.Parting(reason, self._claims.owner)
        try:
            moved = await asyncio.to_thread(moves.set_aside, place, path, self._claim.message.charged, parting)
        except OSError as error:
            raise moves.broker_error("setting a message aside", place, error) from error
        if not moved:
            self._lose()
        self._settle()

    def hand_back(self) -> None:
        """The runner ends with the message unsettled: somebody else shall have it, at no charge."""
        try:
            moves.put_back(self._claim.place, self._claim.path, self._claim.message)
        except OSError as error:
            message = self._claim.message.base
            log.warning("message %s of queue %s comes back when the lease is over: %s", message, self.queue, error)
        self._settle()

    def _settle(self) -> None:
        self._end(BrokerError(f"message {self._claim.message.base} of queue {self.queue} was settled already"))

    def _end(self, answer: BrokerError) -> None:
        """From now on every call gets `answer`."""
        self._ended = answer
        self._claims.settled(self)

    def _check_open(self) -> None:
        if self._ended is not None:
            raise self._ended

    def _lose(self) -> NoReturn:
        lost = LeaseLostError(
            f"message {self._claim.message.base} of queue {self.queue} is no longer held by {self._claims.owner}",
            hint="this runner was out of touch for longer than the lease; another one has the experiment",
        )
        self._end(lost)
        raise lost


class Claims:
    """What this runner holds."""

    def __init__(self, owner: str, on_postponed: Callable[[], None]) -> None:
        self.owner = owner
        self.on_postponed = on_postponed
        self._serials = itertools.count(1)
        self._held: set[LocalDelivery] = set()

    def take(self, place: QueuePlace, name: str, version: Version) -> Claim | None:
        """Claim a message that was read as `version`; None when somebody else did, or put another in its place.
        OSError when the file system refuses."""
        message = MessageName.parse(name)
        claimed = place.claimed / ClaimName(self.owner, next(self._serials), message).file_name
        if not moves.move(place.messages / name, claimed):
            return None
        claim = Claim(place, claimed, message)
        if Version.of(claimed.stat()) == version:
            return claim
        moves.put_back(place, claimed, message)
        return None

    def deliver(self, claim: Claim, body: bytes, ticket: Ticket) -> LocalDelivery:
        delivery = LocalDelivery(claim, body, ticket, self)
        self._held.add(delivery)
        return delivery

    def settled(self, delivery: LocalDelivery) -> None:
        self._held.discard(delivery)

    def hand_back(self) -> None:
        """Return everything that is held."""
        for delivery in list(self._held):
            delivery.hand_back()
