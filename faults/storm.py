"""The storm itself: does to the cluster what the plan says, and heals everything in the end."""

import asyncio
import errno
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path

import psutil

from faults.plan import Strike
from faults.runners import Runner, scripts
from faults.site import Server
from servers.proxy import Proxy

SLOW = 0.15
"""Seconds by which a slow link delays each piece."""
BALLAST = "ballast"
BETWEEN_SIGNALS = 0.5


class Storm:
    """Owns what is broken at the moment."""

    def __init__(
        self,
        root: Path,
        runners: Mapping[str, Runner],
        servers: Mapping[str, Server],
        links: Mapping[str, Sequence[Proxy]],
        say: Callable[[str], None],
    ) -> None:
        self._root, self._runners, self._servers, self._links, self._say = root, runners, servers, links, say
        self._dice = random.Random(0)
        self.struck: Counter[str] = Counter()
        self.killed_scripts: set[str] = set()
        """Keys of experiments of which a script was killed: that is a known end of theirs."""
        self._means: dict[str, Callable[[Strike], Coroutine[None, None, None]]] = {
            "kill runner": self._kill_runner,
            "drain runner": self._drain_runner,
            "stop runner": self._stop_runner,
            "freeze runner": self._freeze_runner,
            "kill script": self._kill_script,
            "kill broker": self._kill_server,
            "restart broker": self._restart_server,
            "kill store": self._kill_server,
            "restart store": self._restart_server,
            "cut link": self._cut,
            "drop on link": self._drop,
            "delay link": self._delay,
            "half-close link": self._half_close,
            "fill disk": self._fill_disk,
        }

    async def rage(self, strikes: Sequence[Strike], calm: asyncio.Event) -> None:
        """Strike after strike, until they are over or it shall be `calm`; returns when everything is healed."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for strike in strikes:
                try:
                    async with asyncio.timeout(max(0.0, began + strike.at - time.monotonic())):
                        await calm.wait()
                    break
                except TimeoutError:
                    self._say(f"  {strike}")
                    self.struck[strike.trouble.name] += 1
                    group.create_task(self._means[strike.trouble.name](strike), name=str(strike))

    async def _kill_runner(self, strike: Strike) -> None:
        runner = self._runners[strike.target]
        await runner.kill()
        await asyncio.sleep(strike.seconds)
        runner.rise()

    async def _drain_runner(self, strike: Strike) -> None:
        runner = self._runners[strike.target]
        await runner.drain()
        await asyncio.sleep(strike.seconds)
        runner.rise()

    async def _stop_runner(self, strike: Strike) -> None:
        """It gives back what it has."""
        runner = self._runners[strike.target]
        runner.down = True
        runner.signal(signal.SIGTERM)
        await asyncio.sleep(BETWEEN_SIGNALS)
        await runner.drain()
        await asyncio.sleep(strike.seconds)
        runner.rise()

    async def _freeze_runner(self, strike: Strike) -> None:
        runner = self._runners[strike.target]
        runner.signal(signal.SIGSTOP)
        await asyncio.sleep(strike.seconds)
        runner.signal(signal.SIGCONT)

    async def _kill_script(self, strike: Strike) -> None:
        del strike  # whichever runs
        found = await asyncio.to_thread(lambda: list(scripts(self._root)))
        if not found:
            return
        key, process = self._dice.choice(found)
        self.killed_scripts.add(key)
        try:
            process.kill()
        except psutil.NoSuchProcess:
            self._say("    it was over")

    async def _kill_server(self, strike: Strike) -> None:
        server = self._servers[strike.target]
        await asyncio.to_thread(lambda: server.stop(hard=True))
        await asyncio.sleep(strike.seconds)
        await asyncio.to_thread(server.start)

    async def _restart_server(self, strike: Strike) -> None:
        server = self._servers[strike.target]
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(strike.seconds)
        await asyncio.to_thread(server.start)

    async def _cut(self, strike: Strike) -> None:
        await self._disturb(strike, Proxy.cut)

    async def _drop(self, strike: Strike) -> None:
        await self._disturb(strike, Proxy.drop)

    async def _delay(self, strike: Strike) -> None:
        await self._disturb(strike, lambda proxy: proxy.delay(SLOW))

    async def _half_close(self, strike: Strike) -> None:
        await self._disturb(strike, Proxy.half_close)

    async def _disturb(self, strike: Strike, how: Callable[[Proxy], None]) -> None:
        proxies = self._links[strike.target]
        for proxy in proxies:
            await asyncio.to_thread(how, proxy)
        await asyncio.sleep(strike.seconds)
        for proxy in proxies:
            await asyncio.to_thread(proxy.restore)

    async def _fill_disk(self, strike: Strike) -> None:
        """Not a byte is left on the disk of this runner's experiments."""
        ballast = self._runners[strike.target].place.working / BALLAST
        await asyncio.to_thread(_fill, ballast)
        await asyncio.sleep(strike.seconds)
        ballast.unlink(missing_ok=True)


def _fill(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            while True:
                try:
                    file.write(b"b" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break
