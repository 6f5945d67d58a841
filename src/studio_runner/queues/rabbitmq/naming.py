"""Names of queues: as people see them, and of those that runners keep beside each request queue.

Runners' own queues begin with `studio-runner.` and are bound to no exchange but the default one: neither other
runners nor clients take them for request queues.
"""

import hashlib
from dataclasses import dataclass
from typing import Self

EXCHANGE = "StudioML.topic"
OWN = "studio-runner."
LONGEST = 255
"""Bytes in the name of a queue, by the protocol."""

DELAYS = (1, 2, 5, 10, 20, 40, 80, 160, 320, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400)
"""Seconds. There is a queue for every delay in use, so these are few."""


@dataclass(frozen=True)
class QueueName:
    """A queue in a virtual host."""

    vhost: str
    name: str

    @classmethod
    def parse(cls, text: str, home: str) -> Self:
        """`rmq_x` is in the virtual host of the runner's URL (`home`), `rmq_x@VHOST` in another one."""
        name, at, vhost = text.rpartition("@")
        return cls(vhost, name) if at and name else cls(home, text)

    def shown(self, home: str) -> str:
        """What `parse` takes."""
        return self.name if self.vhost == home and "@" not in self.name else f"{self.name}@{self.vhost}"

    @property
    def routing_key(self) -> str:
        return f"StudioML.{self.name}"

    @property
    def dead(self) -> str:
        """Has its dead letters."""
        return _fitting(f"{OWN}dead.{self.name}")

    def held_by(self, owner: str) -> str:
        """Has the messages that runner `owner` works on."""
        return _fitting(f"{OWN}hold.{self.name}.{owner}")

    @property
    def holds(self) -> str:
        """The beginning of `held_by` of every runner."""
        return f"{OWN}hold.{self.name}."

    def delayed(self, seconds: int) -> str:
        """Has messages that are to wait so long."""
        return _fitting(f"{OWN}delay.{self.name}.{seconds * 1000}")

    @property
    def delays(self) -> str:
        """The beginning of every `delayed`."""
        return f"{OWN}delay.{self.name}."


def round_delay(delay: float) -> int:
    """The shortest of `DELAYS` that is no shorter than `delay`; the longest when none is."""
    return next((seconds for seconds in DELAYS if seconds >= delay), DELAYS[-1])


def is_hold(queue: str) -> bool:
    return queue.startswith(f"{OWN}hold.")


def _fitting(name: str) -> str:
    """The name, or its beginning and a digest when it is too long."""
    encoded = name.encode()
    if len(encoded) <= LONGEST:
        return name
    digest = hashlib.blake2b(encoded, digest_size=12).hexdigest()
    return f"{encoded[: LONGEST - 26].decode(errors='ignore')}.{digest}"
