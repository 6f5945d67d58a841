"""Looking after the cards: what was used is clean before it is used again, and what fails is set aside."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from studio_runner.machine.cards import Assignment
from studio_runner.machine.gpus.card import Alarm, Card, Condition, Driver, Listener, Usage
from studio_runner.machine.gpus.pool import Place, Pool

log = logging.getLogger(__name__)

ANSWER = 10.0
"""Seconds in which a driver answers about a card; one that has hung is asked no more until it does."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between two looks at a card that settles: there is no event for memory that becomes free."""
HEARING = 0.25
"""Seconds that a listener waits at a time, and so the longest that the end waits for it."""
LISTENER = "listen to a GPU driver"

_T = TypeVar("_T")


@dataclass
class _Look:
    """The look at a card that is under way, and since when; and what ends the wait for the next one."""

    answer: "asyncio.Future[Condition] | None" = None
    since: float = 0.0
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Warden:
    """All that goes on about the cards of this runner. `period`: seconds between two looks at a card; `left_out`:
    what cannot be used, a phrase each."""

    def __init__(
        self, pool: Pool, drivers: Mapping[str, Driver], period: float, left_out: Sequence[str] = ()
    ) -> None:
        self.pool, self.left_out = pool, left_out
        self._drivers, self._period = drivers, period
        self._looks = {uuid: _Look() for uuid in pool.places}
        self._news = asyncio.Event()
        self._changed: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def watching(self, changed: Callable[[], None]) -> AsyncIterator[None]:
        """Look after the cards until the context ends; `changed` is called when one can be had again.

        All of them have been looked at when it begins.
        """
        if not self.pool.places:
            yield
            return
        self._changed = changed
        await asyncio.gather(*map(self._look_at, self.pool.places.values()))
        self.pool.tell_when_vacated(self._vacated)
        try:
            async with self._listening(), self._looking():
                yield
        finally:
            self.pool.tell_when_vacated(None)

    async def mishaps(self, assignment: Assignment, tell: Callable[[str], None]) -> None:
        """Tell whoever has these cards what happens to them; never returns."""
        told: dict[str, str] = {}
        while True:
            news = self._news
            for place in self._of(assignment):
                trouble = place.health.trouble
                if trouble and told.get(place.card.uuid) != trouble:
                    tell(f"{place.card.called}: {trouble}")
                told[place.card.uuid] = trouble
            await news.wait()

    async def usage(self, assignment: Assignment, pids: Iterable[int]) -> list[dict[str, object]]:
        """What these cards do, and how much memory the processes have on each (all that is in use where the driver
        tells of no process); a card that does not answer is left out."""
        places, ours = self._of(assignment), frozenset(pids)
        answers = await asyncio.gather(*(self._asked(partial(self._use, place.card)) for place in places))
        return [_sample(place.card, *answer, ours) for place, answer in zip(places, answers, strict=True) if answer]

    def _of(self, assignment: Assignment) -> list[Place]:
        return [self.pool.places[uuid] for uuid in assignment.cards]

    def _use(self, card: Card) -> tuple[Usage, Condition]:
        driver = self._drivers[card.vendor]
        return driver.usage(card), driver.condition(card)

    async def _asked(self, ask: Callable[[], _T]) -> _T | None:
        try:
            async with asyncio.timeout(ANSWER):
                return await in_thread(ask)
        except TimeoutError:
            return None

    def _vacated(self, place: Place) -> None:
        self._looks[place.card.uuid].wake.set()

    @asynccontextmanager
    async def _looking(self) -> AsyncIterator[None]:
        """A task per card; what goes wrong in the context is not theirs, so no group may wrap it."""
        tasks = []
        for place in self.pool.places.values():
            task = asyncio.create_task(self._watch(place), name=f"watch {place.card.called}")
            task.add_done_callback(partial(_ended, place))
            tasks.append(task)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, place: Place) -> None:
        """Each card by itself: one that has hung keeps no other waiting."""
        wake, pause = self._looks[place.card.uuid].wake, self._period
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await wake.wait()
                    pause = FIRST_PAUSE
            wake.clear()
            await self._look_at(place)
            pause = self._period if place.health.settling is None else min(2 * pause, LONGEST_PAUSE, self._period)

    async def _look_at(self, place: Place) -> None:
        look, health = self._looks[place.card.uuid], place.health
        if look.answer is None:
            driver = self._drivers[place.card.vendor]
            look.answer, look.since = in_thread(partial(driver.condition, place.card)), time.monotonic()
        done, _ = await asyncio.wait([look.answer], timeout=ANSWER)
        before, could = health.trouble, health.well
        if done:
            condition, look.answer = look.answer.result(), None
            self._judge(place, condition, look.since)
        else:
            health.mute()
        self._say(place, before)
        if health.well and not could:
            self._changed()

    def _judge(self, place: Place, condition: Condition, since: float) -> None:
        """Unless its experiment has ended during the look: that tells nothing of the time after it."""
        if place.taken:
            place.health.looked_busy(condition, time.monotonic())
        elif place.health.settling is None or place.health.settling <= since:
            place.health.looked_idle(condition, time.monotonic())

    def _alarmed(self, alarm: Alarm) -> None:
        for place in self.pool.places.values():
            if alarm.concerns(place.card):
                before = place.health.trouble
                place.health.alarm(alarm.fault, time.monotonic())
                self._say(place, before)

    def _say(self, place: Place, before: str) -> None:
        """What has changed, once, to the log and to whoever has the card."""
        trouble = place.health.trouble
        if trouble == before:
            return
        if trouble:
            log.warning("%s is set aside: %s", place.card.called, trouble)
        else:
            log.warning("%s is well again", place.card.called)
        self._news.set()
        self._news = asyncio.Event()

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        """A thread per driver that reports faults by itself; they are gone when the context ends."""
        over, threads = threading.Event(), []
        loop = asyncio.get_running_loop()
        for driver in self._drivers.values():
            if listener := await in_thread(driver.listen):
                tell = partial(_call_soon, loop, self._alarmed)
                thread = threading.Thread(target=_hear, args=(listener, over, tell), name=LISTENER, daemon=True)
                threads.append(thread)
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                with suppress(TimeoutError):
                    async with asyncio.timeout(ANSWER):
                        await in_thread(thread.join)


def _ended(place: Place, task: "asyncio.Task[None]") -> None:
    """A card that nobody looks after any more is given to nobody."""
    if not task.cancelled() and (error := task.exception()):
        log.error("%s is set aside: its watch broke", place.card.called, exc_info=error)
        place.health.trouble = "its watch broke; the runner's log says how"


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[Alarm], None], alarm: Alarm) -> None:
    loop.call_soon_threadsafe(callback, alarm)


def _hear(listener: Listener, over: threading.Event, heard: Callable[..., object]) -> None:
    while not over.is_set():
        if alarm := listener.hear(HEARING):
            heard(alarm)
    listener.close()


def in_thread(work: Callable[[], _T]) -> "asyncio.Future[_T]":
    """What `work` comes to, from a thread that nothing waits for at the end of the program: a driver that has hung
    must not keep the runner from ending."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[_T] = loop.create_future()

    def deliver(put: Callable[[], None]) -> None:
        if not answer.done():
            put()

    def run() -> None:
        try:
            put = partial(answer.set_result, work())
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            put = partial(answer.set_exception, error)
        with suppress(RuntimeError):  # nobody waits any more: the loop is closed
            loop.call_soon_threadsafe(deliver, put)

    threading.Thread(target=run, name="ask a GPU driver", daemon=True).start()
    return answer


def _sample(card: Card, usage: Usage, condition: Condition, ours: frozenset[int]) -> dict[str, object]:
    """Sizes in bytes. In a container the driver may tell of no process, or by numbers that are not ours."""
    told = [used for pid, used in condition.processes.items() if pid in ours and used is not None]
    return {
        "uuid": card.uuid,
        "name": card.name,
        "utilisation": usage.utilisation,
        "memory": sum(told) if told else condition.used,
        "memory_total": card.memory,
        "temperature": usage.temperature,
        "power": usage.power,
    }
