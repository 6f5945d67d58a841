"""Sealed messages that are under way or were done with: one of them that comes again was recorded by somebody and
is played again.

Messages that come again because a runner died were never done with. What is done with is remembered in a file of
the working directory, which all runners there share; it outlasts them. What is under way each knows for itself.
"""

import hashlib
import json
import logging
import sqlite3
import time
from contextlib import ExitStack, closing
from functools import cached_property
from pathlib import Path

from studio_runner.errors import BrokerError
from studio_runner.messages.request import Request
from studio_runner.queues.base import Delivery

log = logging.getLogger(__name__)

NAME = "settled-messages.db"

_OPENING = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS settled (message TEXT PRIMARY KEY, deadline REAL) WITHOUT ROWID;
"""


KEPT = 400 * 86400.0
"""Seconds after the end of its lifetime for which a message is remembered: it would not run, and yet be told of."""


class Replays:
    """Remembers messages; those without a lifetime for ever."""

    def __init__(self, working_dir: Path) -> None:
        self._path = working_dir / NAME
        self._under_way: dict[str, Delivery] = {}

    async def is_copy(self, request: Request) -> bool:
        """Whether a message of this key, time and lifetime is under way here, and its broker still counts it as
        ours: a delivery that was lost has a rightful successor."""
        try:
            await self._under_way[_identity(request)].extend()
        except (KeyError, BrokerError):
            return False
        return True

    def begin(self, request: Request, delivery: Delivery) -> None:
        self._under_way[_identity(request)] = delivery

    def end(self, request: Request, delivery: Delivery) -> None:
        """To be said before the broker hears of it: from then on it may come again."""
        if self._under_way.get(_identity(request)) is delivery:
            del self._under_way[_identity(request)]

    def knows(self, request: Request) -> bool:
        """Whether a message of this key, time and lifetime was done with."""
        try:
            found = self._file.execute("SELECT 1 FROM settled WHERE message = ?", [_identity(request)])
            return found.fetchone() is not None
        except sqlite3.Error as error:
            self._complain("read", error)
            return False

    def add(self, request: Request) -> None:
        """It is done with; to be said before the broker hears of it."""
        row = [_identity(request), request.lifetime_deadline]
        try:
            self._file.execute("INSERT OR REPLACE INTO settled VALUES (?, ?)", row)
        except sqlite3.Error as error:  # a full disk, say: that must cost no experiment
            self._complain("written", error)

    def _complain(self, what: str, error: sqlite3.Error) -> None:
        log.warning(
            "%s cannot be %s, a replay would not be noticed here: %s. Make room, or remove it if it is damaged",
            self._path,
            what,
            error,
        )

    def close(self) -> None:
        if "_file" in vars(self):
            self._file.close()

    @cached_property
    def _file(self) -> sqlite3.Connection:
        """Opened when it is first needed: most runners see no sealed messages."""
        file = sqlite3.connect(self._path, timeout=5.0, isolation_level=None)
        with ExitStack() as failing:
            failing.enter_context(closing(file))
            file.executescript(_OPENING)
            file.execute("DELETE FROM settled WHERE deadline < ?", [time.time() - KEPT])
            failing.pop_all()
        return file


def _identity(request: Request) -> str:
    """Without the time of its making a message is only itself."""
    added = request.experiment.time_added
    parts = [request.key, added, request.config.experiment_lifetime] if added else request.to_json().decode()
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
