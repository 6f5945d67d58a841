"""Sealed messages that were done with: one of them that comes again was recorded by somebody and is played again.

Messages that come again because a runner died were never done with. What is done with is remembered in a file of
the working directory, which all runners there share; it outlasts them.
"""

import hashlib
import json
import logging
import sqlite3
import time
from functools import cached_property
from pathlib import Path

from studio_runner.messages.request import Request

log = logging.getLogger(__name__)

NAME = "settled-messages.db"

_OPENING = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS settled (message TEXT PRIMARY KEY, deadline REAL) WITHOUT ROWID;
"""


class Replays:
    """Remembers messages until their lifetime is over: from then on they are refused for that anyway."""

    def __init__(self, working_dir: Path) -> None:
        self._path = working_dir / NAME

    def knows(self, request: Request) -> bool:
        """Whether a message of this key, time and lifetime was done with."""
        try:
            found = self._file.execute("SELECT 1 FROM settled WHERE message = ?", [_identity(request)])
            return found.fetchone() is not None
        except sqlite3.Error as error:
            log.warning("%s cannot be read, a replay would not be noticed here: %s", self._path, error)
            return False

    def add(self, request: Request) -> None:
        """It is done with; to be said before the broker hears of it."""
        row = [_identity(request), request.lifetime_deadline]
        try:
            self._file.execute("INSERT OR REPLACE INTO settled VALUES (?, ?)", row)
        except sqlite3.Error as error:  # a full disk, say: that must cost no experiment
            log.warning("%s cannot be written, a replay would not be noticed here: %s", self._path, error)

    def close(self) -> None:
        if "_file" in vars(self):
            self._file.close()

    @cached_property
    def _file(self) -> sqlite3.Connection:
        """Opened when it is first needed: most runners see no sealed messages."""
        file = sqlite3.connect(self._path, timeout=5.0, isolation_level=None)
        self._path.chmod(0o600)
        file.executescript(_OPENING)
        file.execute("DELETE FROM settled WHERE deadline < ?", [time.time()])
        return file


def _identity(request: Request) -> str:
    """Without the time of its making a message is only itself."""
    added = request.experiment.time_added
    parts = [request.key, added, request.config.experiment_lifetime] if added else request.to_json().decode()
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
