"""Events for whoever listens over HTTP, as server-sent events (WHATWG HTML, section 9.2).

The last events are kept once for all listeners; each listener only knows how far it has read. One that falls
further behind than what is kept is let go: it comes back with the id of the last event it saw, and is told to look
at everything anew.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, assert_never

from studio_runner.reports.base import Checkpointed, Ended, Event, StageEntered, Started, Subject

KEPT = 1000
HEARTBEAT = 15.0
"""Seconds of silence after which a comment is sent, so that nobody between takes the connection for dead."""
RETRY = b"retry: 2000\n\n"
SILENCE = b": still here\n\n"


@dataclass(frozen=True)
class Notice:
    """One event as it is sent; `number` counts from 1 in this process."""

    number: int
    name: str
    data: Mapping[str, Any]


class Events:
    """A reporter that keeps the last events for listeners."""

    def __init__(self) -> None:
        self._epoch = f"{time.time_ns():x}"
        self._notices: deque[Notice] = deque(maxlen=KEPT)
        self._last = 0
        self._news = asyncio.Event()
        self._closed = False

    async def report(self, event: Event) -> None:
        self._last += 1
        self._notices.append(Notice(self._last, *_described(event)))
        self._wake()

    def close(self) -> None:
        """Every listener's stream ends."""
        self._closed = True
        self._wake()

    async def stream(self, last_seen: str | None) -> AsyncIterator[bytes]:
        """Everything after `last_seen` (an id; None: from now on), then what comes, until `close` or until the
        listener has fallen too far behind. The event `reset` says that something was missed."""
        position = self._last if last_seen is None else self._position(last_seen)
        yield RETRY
        if position is None:
            position = self._last
            yield self._encode(Notice(position, "reset", {}))
        while not self._closed and not self._lost(position):
            news = self._news
            for notice in self._after(position):
                yield self._encode(notice)
                position = notice.number
            if position == self._last and not await _within(HEARTBEAT, news):
                yield SILENCE

    def _after(self, position: int) -> list[Notice]:
        behind = self._last - position
        return [self._notices[index] for index in range(-behind, 0)] if behind else []

    def _lost(self, position: int) -> bool:
        """What comes after `position` is not kept any more."""
        return self._last - position > len(self._notices)

    def _position(self, last_seen: str) -> int | None:
        """None for an id of another process, or of an event that is followed by some that are not kept any more."""
        epoch, _, number = last_seen.rpartition("-")
        if epoch != self._epoch or not number.isascii() or not number.isdigit() or len(number) > 18:
            return None
        position = int(number)
        return None if position > self._last or self._lost(position) else position

    def _encode(self, notice: Notice) -> bytes:
        data = json.dumps(notice.data)
        return f"id: {self._epoch}-{notice.number}\nevent: {notice.name}\ndata: {data}\n\n".encode()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


async def _within(seconds: float, event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _described(event: Event) -> tuple[str, dict[str, Any]]:
    """The event's name and what is told of it: no part of the request but its key and project."""
    about = {**_about(event.subject), "at": event.at}
    match event:
        case Started():
            return "started", about
        case StageEntered():
            return "stage", {**about, "stage": event.stage}
        case Checkpointed():
            return "checkpoint", about
        case Ended():
            return "ended", {**about, **_end(event)}
    assert_never(event)


def _about(subject: Subject) -> dict[str, Any]:
    return {
        "key": subject.key,
        "attempt": subject.number,
        "queue": subject.queue,
        "project": subject.project or None,
    }


def _end(event: Ended) -> dict[str, Any]:
    return {
        "reason": event.reason.value,
        "sentence": event.sentence,
        "exit_code": event.exit_code,
        "signal": event.signal,
        "final": event.final,
    }
