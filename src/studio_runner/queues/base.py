"""The queue seam: a broker hands out deliveries, a delivery is settled exactly once.

Messages are bytes here; what they mean is the intake's business. At-least-once: a delivery that is
not settled when its runner dies comes back, with `attempts` one higher.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self


class Ticket(Protocol):
    """What a gate set aside for one message; given back when the message went to somebody else."""

    def release(self) -> None: ...


class Gate(Protocol):
    """Decides, before a message is taken, whether this runner takes it."""

    def admit(self, queue: str, body: bytes) -> Ticket | None:
        """Reserve what the message needs and return the ticket, or None: not here, or not now."""
        ...

    def awaits(self, queue: str, body: bytes) -> bool:
        """Whether room is held free for this message, which was refused: it is to be offered before others, and
        soon again."""
        ...

    async def opened(self) -> None:
        """Return once asking again could be worth while: at once while anything is free, else when something
        was given back."""
        ...

    @property
    def releases(self) -> int:
        """How often something was given back so far: when it changes, a message refused before may fit now."""
        ...

    async def released(self, seen: int) -> None:
        """Return once `releases` is other than `seen` (at once when it is already)."""
        ...


class Delivery(Protocol):
    """One message held by this runner. Exactly one of `ack`, `requeue`, `dead_letter` ends it."""

    @property
    def body(self) -> bytes: ...
    @property
    def queue(self) -> str: ...
    @property
    def attempts(self) -> int:
        """How often the message was delivered before and charged to its budget (0 the first time)."""
        ...

    @property
    def redelivered(self) -> bool:
        """Whether somebody may have had this message before, charged or not: then look before running it again."""
        ...

    @property
    def ticket(self) -> Ticket:
        """What the gate reserved for it."""
        ...

    async def extend(self) -> None:
        """Renew the lease; LeaseLostError when somebody else owns the message now, QueueDeletedError when its queue
        is no more (it can still be settled)."""
        ...

    async def ack(self) -> None: ...
    async def requeue(self, delay: float = 0.0, *, charge: bool = True, reason: str = "") -> None:
        """Give the message back, to be delivered again no sooner than `delay` seconds from now.
        `charge` False leaves `attempts` as it was (planned stops). `reason` (one sentence) stays with the message
        where the broker can keep it, and is shown with its dead letter."""
        ...

    async def dead_letter(self, reason: str) -> None:
        """Set the message aside for a person, with the reason (one sentence)."""
        ...


@dataclass(frozen=True)
class QueueStatus:
    """Depths of one queue; `dead` counts its dead letters."""

    name: str
    waiting: int
    claimed: int
    delayed: int
    dead: int


@dataclass(frozen=True)
class DeadLetter:
    """A message that was set aside."""

    queue: str
    name: str
    reason: str
    at: datetime
    attempts: int
    body: bytes
    history: tuple[str, ...] = ()
    """What ended the attempts before the last one, as far as it was kept."""


class Broker(Protocol):
    """A place with queues; an async context."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...

    async def queues(self) -> Sequence[str]:
        """Names of all queues there are now (response queues included; the caller filters)."""
        ...

    async def changed(self) -> None:
        """Return once there may be other queues than `queues` returned last."""
        ...

    def consume(self, queue: str, gate: Gate) -> AsyncIterator[Delivery]:
        """Messages of `queue` that `gate` admits, oldest first, for ever. A message it does not admit stays, and is
        offered again when something was given back, and every few seconds."""
        ...

    async def publish(self, queue: str, body: bytes) -> None: ...
    async def report(self, queue: str, text: bytes) -> bool:
        """Add a report to a response queue, whose messages are `text/plain`; False when there is no such queue."""
        ...

    async def exists(self, queue: str) -> bool: ...


class QueueKeeper(Protocol):
    """What people do with queues beyond running them; a broker offers it where it can.

    NotFoundError when the queue does not exist.
    """

    async def create(self, queue: str) -> None:
        """Make a queue as `publish` would; one that is there stays as it is."""
        ...

    async def status(self, queue: str) -> QueueStatus: ...
    async def dead_letters(self, queue: str) -> Sequence[DeadLetter]: ...
    async def revive(self, queue: str, name: str | None = None) -> int:
        """Put one dead letter (or all) back on the queue with a fresh budget; returns how many."""
        ...

    async def withdraw(self, queue: str, name: str) -> bool:
        """Take the waiting message of this name (`messages.naming`) off the queue; False when it is not waiting
        there."""
        ...


class KeptBroker(Broker, QueueKeeper, Protocol):
    """A broker with both: what the daemon serves and people look after."""
