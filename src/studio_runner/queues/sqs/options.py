"""How SQS is reached and how long it is trusted to wait; durations in seconds."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from studio_runner.config.settings import QueueSettings

SHORTEST_LEASE = 30.0
"""SQS is across a network that may be away for a while, and every renewal is a request that costs money."""

BRIEF_WAIT = 1.0
"""Seconds of a long poll of whoever is no runner, and comes and goes: one that is under way when its process ends
hides the next message from everybody for as long as a lease. Shorter than `traffic.LINGER`, so none is."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class SqsOptions:
    """`certs` is a directory with `credentials` and `config` files; None: whatever AWS tools would find."""

    certs: Path | None = None
    region: str = ""
    endpoint: str = ""
    prefix: str = "sqs_"
    lease: float = SHORTEST_LEASE
    """Visibility timeout of what is held here."""
    cool_down: float = 10.0
    wait: float = 20.0
    """Of one long poll; SQS allows 20."""
    ceiling: float = 43_200.0
    """From the receipt of a message to the end of its last visibility timeout, by SQS's own rule."""
    tidy: float = 60.0
    """Period of looking for changes of the list of queues, and for held messages whose holder died."""

    @classmethod
    def of(cls, settings: QueueSettings, runner: str) -> "SqsOptions":
        """`runner` is empty for whoever is no runner."""
        return cls(
            certs=settings.sqs_certs,
            region=settings.sqs_region,
            endpoint=settings.sqs_endpoint,
            prefix=settings.sqs_prefix,
            lease=max(SHORTEST_LEASE, settings.lease),
            cool_down=settings.cool_down,
            **({} if runner else {"wait": BRIEF_WAIT}),
        )


def boot_clock() -> float:
    """Goes on while the machine sleeps, as SQS's own clock does."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
