"""Where things lie under a queue root, and what file names say.

    <root>/<queue>/<any name>                                   a waiting message
    <root>/.studio-runner/queues/<queue>/claimed/<owner>~<serial>~<attempts>~<base>
    <root>/.studio-runner/queues/<queue>/delayed/<due, ms>~<attempts>~<base>
    <root>/.studio-runner/queues/<queue>/dead/<base>[~tried<n>] and the same name with `.reason.json`
    <root>/.studio-runner/queues/<queue>/incoming/<name>        being written
    <root>/.studio-runner/runners/<owner>                       heartbeat of a runner

Our state is beside the queue directories, not in them: existing clients take everything in a queue directory for a
message. It is on the same file system, so every change of state is one rename.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from studio_runner.errors import BrokerError

STATE = ".studio-runner"
SOFT_LOCK = "lock.lock"
REASON_SUFFIX = ".reason.json"
WHOLE = ".whole"
"""Ending of the names of messages that were put there in one piece, and do not tell it themselves as JSON does."""
LONGEST_BASE = 120
"""Bytes of a message's name that are kept, so that the names made from it stay below 255."""

_TRIED = re.compile(r"(?P<base>.+)~tried(?P<attempts>[1-9][0-9]{0,5})", re.DOTALL)


class MessageName(NamedTuple):
    """The name of a message without its count, and how often it was delivered before."""

    base: str
    attempts: int

    @classmethod
    def parse(cls, file_name: str) -> Self:
        match = _TRIED.fullmatch(file_name)
        if match is None:
            return cls(_shortened(file_name), 0)
        return cls(_shortened(match["base"]), int(match["attempts"]))

    @property
    def file_name(self) -> str:
        return f"{self.base}~tried{self.attempts}" if self.attempts else self.base

    @property
    def charged(self) -> "MessageName":
        """The name after one more delivery."""
        return self._replace(attempts=self.attempts + 1)


class ClaimName(NamedTuple):
    """A message in the hands of a runner. `serial` keeps two messages of one name apart."""

    owner: str
    serial: int
    message: MessageName

    @classmethod
    def parse(cls, file_name: str) -> "ClaimName | None":
        """None for a file that is not ours."""
        owner, serial, attempts, base = _fields(file_name, 4)
        if not (serial.isdecimal() and attempts.isdecimal() and base):
            return None
        return cls(owner, int(serial), MessageName(base, int(attempts)))

    @property
    def file_name(self) -> str:
        return f"{self.owner}~{self.serial}~{self.message.attempts}~{self.message.base}"


class DelayedName(NamedTuple):
    """A message that waits for its time; `due` in milliseconds of Unix time."""

    due: int
    message: MessageName

    @classmethod
    def parse(cls, file_name: str) -> "DelayedName | None":
        """None for a file that is not ours."""
        due, attempts, base = _fields(file_name, 3)
        if not (due.isdecimal() and attempts.isdecimal() and base):
            return None
        return cls(int(due), MessageName(base, int(attempts)))

    @property
    def file_name(self) -> str:
        return f"{self.due}~{self.message.attempts}~{self.message.base}"


@dataclass(frozen=True)
class QueuePlace:
    """The directories of one queue. Only `messages` is there from the start, the others come when needed."""

    name: str
    messages: Path
    claimed: Path
    delayed: Path
    dead: Path
    incoming: Path


@dataclass(frozen=True)
class RootPlace:
    """The directories of a queue root."""

    root: Path

    @property
    def runners(self) -> Path:
        return self.root / STATE / "runners"

    @property
    def states(self) -> Path:
        return self.root / STATE / "queues"

    def queue(self, name: str) -> QueuePlace:
        """BrokerError for a name that could not be a directory's."""
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise BrokerError(
                f"{name!r} cannot be the name of a queue",
                hint="use letters, digits, `_`, `-` and `.`, with no dot in front",
            )
        state = self.states / name
        return QueuePlace(
            name, self.root / name, state / "claimed", state / "delayed", state / "dead", state / "incoming"
        )

    def queue_names(self) -> list[str]:
        """Every queue there is; none when the root does not exist yet."""
        return _directories(self.root)

    def places_with_state(self) -> list[QueuePlace]:
        """The queues that have, or had, claims, delayed messages or dead letters."""
        return [self.queue(name) for name in _directories(self.states)]


def is_message_name(name: str) -> bool:
    """Dot names are never messages, nor is the clients' lock (newer ones also make `lock.lock.break.*`)."""
    return not name.startswith((".", SOFT_LOCK))


def names_in(directory: Path) -> list[str]:
    """What lies in a directory; nothing when it is not there."""
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries]
    except FileNotFoundError:
        return []


def _directories(directory: Path) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BrokerError(
            f"queue directory {directory} cannot be read: {error.strerror}",
            hint="check who owns it and its permissions, or name another with --queue-root",
        ) from error


def _fields(file_name: str, count: int) -> list[str]:
    """The first `count - 1` fields and the rest, padded with empty ones."""
    fields = file_name.split("~", count - 1)
    return fields + [""] * (count - len(fields))


def _shortened(base: str) -> str:
    raw = os.fsencode(base)
    if len(raw) <= LONGEST_BASE:
        return base
    return f"{os.fsdecode(raw[:100])}-{hashlib.sha256(raw).hexdigest()[:16]}"
