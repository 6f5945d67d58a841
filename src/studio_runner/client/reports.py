"""Reading the reports on experiments from a response queue (INTERFACE section 8)."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from studio_runner.config.cascade import load
from studio_runner.config.keys.files import passphrase_in, private_content
from studio_runner.config.responses import response_of
from studio_runner.config.settings import Settings
from studio_runner.errors import BrokerError, InvalidMessageError, KeyFileError, RejectedError
from studio_runner.messages.keys import OpeningKey, read_opening_key
from studio_runner.messages.report import Report, read_report
from studio_runner.messages.sealing import unseal
from studio_runner.queues.base import Delivery, KeptBroker
from studio_runner.queues.registry import broker_of

log = logging.getLogger(__name__)

QUIET = 0.5
"""Seconds without a report after which the queue is asked whether it is empty."""
AGAIN = 5.0
"""Seconds until a broker that failed is asked again."""
MOST_UNOPENED = 100
"""Messages that cannot be opened, none before them could: then it is the key."""
HELD_UP = 5.0
"""Seconds without a message though more wait, when none could be opened: then those hold up the others. FIFO queues
give out nothing more as long as nobody is done with the first."""

Tell = Callable[[str], None]


def reader_key(path: Path, passphrase: Path | None = None) -> OpeningKey:
    """The private key in a file, `passphrase` a file with what opens it; KeyFileError when they cannot be used, or
    others may read them."""
    word = passphrase_in(passphrase) if passphrase else None
    try:
        return read_opening_key(private_content(path), word)
    except KeyFileError as error:
        if error.hint:
            raise
        raise KeyFileError(f"The key file {path} cannot be used: {error}") from error


@asynccontextmanager
async def opened_reports(
    queue: str, key: OpeningKey, settings: Settings | None = None, *, follow: bool = True
) -> AsyncIterator["ReportReader"]:
    """The reports on experiments of `queue`, one after the other: for ever, or without `follow` what is there now.

    `settings` say where queues are; without them it is as the environment and the runner's configuration file say.
    """
    settings, name = settings or load(os.environ).settings, response_of(queue)
    async with (
        broker_of(name, settings.queues, settings.places.queue_root) as broker,
        ReportReader(broker, name, key, follow=follow) as reader,
    ):
        yield reader


class ReportReader:
    """Reports of a response queue, in their order; to be entered, and iterated over.

    A report is taken off the queue when the next one is asked for, or when the context is left without an error:
    one whose reader died while dealing with it comes again. What is no report is set aside with the dead letters.
    As long as no message could be opened, those that cannot be may be for another key: they go back.
    """

    def __init__(
        self, broker: KeptBroker, queue: str, key: OpeningKey, *, follow: bool = True, tell: Tell = log.warning
    ) -> None:
        self._broker, self._queue, self._key = broker, queue, key
        self._follow, self._tell = follow, tell
        self._deliveries = broker.consume(queue, _Everything())
        self._coming: asyncio.Task[Delivery] | None = None
        self._at_hand: Delivery | None = None
        self._unopened: list[Delivery] = []
        self._has_opened = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self._read()
        if self._unopened:
            self._tell(f"{len(self._unopened)} messages cannot be opened with this key and stay in {self._queue}")
        for delivery in (*await self._just_come(), self._at_hand, *self._unopened):
            if delivery is not None:
                with suppress(BrokerError):  # then it comes back by itself
                    await delivery.requeue(charge=False)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Report:
        await self._read()
        while delivery := await self._next():
            if report := await self._open(delivery):
                self._at_hand = delivery
                return report
        raise StopAsyncIteration

    async def _read(self) -> None:
        """The one at hand was dealt with."""
        delivery, self._at_hand = self._at_hand, None
        if delivery is not None:
            try:
                await delivery.ack()
            except BrokerError as error:
                self._tell(f"The last report may come again: {error}")

    async def _next(self) -> Delivery | None:
        """None when there is no more."""
        since = time.monotonic()
        while True:
            if self._coming is None:
                self._coming = asyncio.ensure_future(anext(self._deliveries))
            await asyncio.wait([self._coming], timeout=self._patience)
            try:
                if self._coming.done():
                    coming, self._coming = self._coming, None
                    return coming.result()
                if await self._is_over(since):
                    return None
            except BrokerError as error:
                if not self._follow:
                    raise
                self._tell(f"Queue {self._queue} cannot be read, next try in {AGAIN:g} s: {error}")
                await asyncio.sleep(AGAIN)
                if self._coming is None:
                    self._deliveries = self._broker.consume(self._queue, _Everything())

    @property
    def _patience(self) -> float | None:
        """Seconds until the queue is asked what it has."""
        if self._follow:
            return HELD_UP if self._unopened else None
        return QUIET

    async def _is_over(self, since: float) -> bool:
        """Whether all is read, nothing having come since then. KeyFileError when that is this reader's doing."""
        waiting = (await self._broker.status(self._queue)).waiting
        if waiting and self._unopened and time.monotonic() - since >= HELD_UP:
            raise self._another_key()
        return not waiting and not self._follow

    async def _just_come(self) -> Sequence[Delivery]:
        """Ask for no more; what came at this moment."""
        if self._coming is None:
            return ()
        self._coming.cancel()
        found = await asyncio.gather(self._coming, return_exceptions=True)
        return [delivery for delivery in found if not isinstance(delivery, BaseException)]

    async def _open(self, delivery: Delivery) -> Report | None:
        """None for what is no report."""
        try:
            clear = await asyncio.to_thread(unseal, delivery.body.decode(errors="replace").strip(), self._key)
        except RejectedError as error:
            await self._put_away(delivery, str(error))
            return None
        self._has_opened = True
        for earlier in self._unopened:
            await self._set_aside(earlier, "sealed for another key, or damaged")
        self._unopened.clear()
        try:
            return read_report(clear)
        except InvalidMessageError as error:
            await self._set_aside(delivery, f"no report: {error}")
            return None

    async def _put_away(self, delivery: Delivery, reason: str) -> None:
        if self._has_opened:
            await self._set_aside(delivery, reason)
            return
        self._unopened.append(delivery)
        if len(self._unopened) >= MOST_UNOPENED:
            raise self._another_key()

    def _another_key(self) -> KeyFileError:
        return KeyFileError(
            f"No message of {self._queue} can be opened with this key, of {len(self._unopened)} that were tried",
            hint=f"It is {self._key.public.fingerprint}; the runner must have its public half.",
        )

    async def _set_aside(self, delivery: Delivery, reason: str) -> None:
        self._tell(f"A message of {self._queue} is set aside with its dead letters: {reason}")
        try:
            await delivery.dead_letter(reason)
        except BrokerError as error:
            self._tell(f"It may come again: {error}")


class _Nothing:
    """A ticket for no room at all."""

    def release(self) -> None:
        pass


class _Everything:
    """A gate that is always open."""

    releases = 0

    def admit(self, queue: str, body: bytes) -> _Nothing:  # noqa: ARG002
        return _Nothing()

    def awaits(self, queue: str, body: bytes) -> bool:  # noqa: ARG002
        return False

    async def opened(self) -> None:
        return

    async def released(self, seen: int) -> None:  # noqa: ARG002
        await asyncio.Event().wait()
