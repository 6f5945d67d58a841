"""What travels with a message: how often it was tried, who has it, what became of it. One header of our own.

A message without it was never taken, or only for moments: whoever had it died before it said so.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from studio_runner.queues.rabbitmq.naming import is_hold

HEADER = "x-studio-runner"
REMEMBERED = 10
"""Reasons kept of earlier attempts."""
LONGEST_REASON = 500

_LEFT_BEHIND = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count", "CC", "BCC")
"""Headers that brokers write, or that would send copies elsewhere: not for a new copy."""


@dataclass(frozen=True)
class Passport:
    """Parsed header. `turn` grows whenever another one gets the message, so that its last owner can tell."""

    id: str = ""
    attempts: int = 0
    turn: int = 0
    holder: str = ""
    """The runner in whose hold queue the copy was; empty: in nobody's."""
    history: tuple[str, ...] = ()
    deaths: int = 0
    """Included in `attempts`: how often a runner died with the message since the header was written."""

    @classmethod
    def of(cls, headers: Mapping[str, Any]) -> Self:
        """Whatever cannot be read counts as absent: anybody can write headers."""
        table = headers.get(HEADER)
        if not isinstance(table, dict):
            return cls()
        history = table.get("history")
        deaths = sum(_deaths(headers))
        return cls(
            id=_text(table.get("id")),
            attempts=_count(table.get("attempts")) + deaths,
            turn=_count(table.get("turn")),
            holder=_text(table.get("holder")),
            history=tuple(map(_text, history))[-REMEMBERED:] if isinstance(history, list) else (),
            deaths=deaths,
        )

    @property
    def is_blank(self) -> bool:
        return not self.id

    def held(self, identity: str, owner: str) -> "Passport":
        """Of a copy that `owner` keeps."""
        return replace(self, id=identity, turn=self.turn + 1, holder=owner, deaths=0)

    def returned(self, identity: str, reason: str, charge: int) -> "Passport":
        """Of a copy that is for anybody."""
        history = (*self.history, reason[:LONGEST_REASON])[-REMEMBERED:] if reason else self.history
        return replace(
            self,
            id=identity,
            attempts=self.attempts + charge,
            turn=self.turn + 1,
            holder="",
            history=history,
            deaths=0,
        )

    def is_newer_than(self, ours: "Passport", owner: str) -> bool:
        """Whether somebody else has had the message since `owner` had it with passport `ours`."""
        return self.turn > ours.turn or (self.turn == ours.turn and self.holder not in ("", owner))

    def headers(self, others: Mapping[str, Any]) -> dict[str, Any]:
        """For a copy of a message that had the headers `others`."""
        kept = {name: value for name, value in others.items() if not name.startswith(_LEFT_BEHIND)}
        kept[HEADER] = {
            "id": self.id,
            "attempts": self.attempts,
            "turn": self.turn,
            "holder": self.holder,
            "history": list(self.history),
        }
        return kept


def identity_of(body: bytes) -> str:
    """Of a message that has none yet: the same for every copy of it."""
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def _deaths(headers: Mapping[str, Any]) -> Iterator[int]:
    """How often the message expired in a hold queue, as the broker counts."""
    entries = headers.get("x-death")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("reason") == "expired" and is_hold(_text(entry.get("queue"))):
            yield max(1, _count(entry.get("count")))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**31 else 0
