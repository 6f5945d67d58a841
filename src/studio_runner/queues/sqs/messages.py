"""Messages as SQS holds them, and the one attribute in which this project keeps what it must know of them.

A message cannot be changed where it is. What is to be remembered goes into a copy that is sent again while the
original is deleted: attempts charged, and what ended them. All else of the message is copied as it was.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

NOTE = "studio-runner"
ENCODING = "studio-runner-encoding"
LARGEST = 1 << 20
"""Bytes of a message with its attributes."""
MOST_ATTEMPTS = 1_000_000
"""What counts as so many is far over any budget."""
REMEMBERED = 8
LONGEST_REASON = 400
_ATTRIBUTES = 10
"""SQS takes so many to a message."""
_UNFIT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What SQS takes in no body."""


@dataclass(frozen=True)
class Note:
    """Our own attribute. `identity` is the message id that the first of all copies had."""

    identity: str = ""
    attempts: int = 0
    taken: bool = False
    """Somebody started on it before this copy was made."""
    history: tuple[str, ...] = ()
    origin: str = ""
    """The queue of a message that is held or dead elsewhere."""
    group: str = ""
    reason: str = ""
    holder: str = ""
    """The runner that holds it beyond the ceiling."""

    @classmethod
    def parse(cls, text: str) -> "Note":
        """What cannot be read counts as nothing: anybody may write attributes."""
        try:
            values = json.loads(text)
            history = tuple(str(line) for line in values.get("history", ()))
            return cls(
                identity=str(values.get("identity", "")),
                attempts=min(max(0, int(values.get("attempts", 0))), MOST_ATTEMPTS),
                taken=bool(values.get("taken")),
                history=history[-REMEMBERED:],
                origin=str(values.get("origin", "")),
                group=str(values.get("group", "")),
                reason=str(values.get("reason", "")),
                holder=str(values.get("holder", "")),
            )
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            return cls()

    def text(self) -> str:
        return json.dumps({name: value for name, value in asdict(self).items() if value})

    def remembering(self, reason: str) -> "Note":
        """With one more line of history."""
        if not reason:
            return self
        return replace(self, history=(*self.history, reason[:LONGEST_REASON])[-REMEMBERED:])


@dataclass(frozen=True)
class Outgoing:
    """A message to be sent. `group` is for FIFO queues."""

    text: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""

    @property
    def size(self) -> int:
        """As SQS counts: names, types and values of attributes too."""
        attributes = sum(
            len(name)
            + len(value["DataType"])
            + len(value.get("StringValue", "").encode() or value.get("BinaryValue", b""))
            for name, value in self.attributes.items()
        )
        return len(self.text.encode()) + attributes


def outgoing(body: bytes, group: str) -> Outgoing:
    """Any bytes; those that SQS takes in no body go as base64."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = ""
    if text and not _UNFIT.search(text):
        return Outgoing(text, {}, group)
    encoded = "base64:" + base64.b64encode(body).decode()
    return Outgoing(encoded, {ENCODING: _string("base64")}, group)


@dataclass(frozen=True)
class Message:
    """One receipt of a message."""

    id: str
    handle: str
    text: str
    receives: int
    sent: float
    """Seconds since the epoch, by SQS's clock."""
    group: str
    attributes: Mapping[str, Any]
    note: Note

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Message":
        system = found.get("Attributes", {})
        attributes = dict(found.get("MessageAttributes", {}))
        note = attributes.pop(NOTE, {})
        return cls(
            id=found["MessageId"],
            handle=found["ReceiptHandle"],
            text=found["Body"],
            receives=int(system.get("ApproximateReceiveCount", 1)),
            sent=int(system.get("SentTimestamp", 0)) / 1000,
            group=system.get("MessageGroupId", ""),
            attributes=attributes,
            note=Note.parse(note.get("StringValue", "{}")),
        )

    @property
    def body(self) -> bytes:
        if ENCODING in self.attributes and self.text.startswith("base64:"):
            try:
                return base64.b64decode(self.text.removeprefix("base64:"), validate=True)
            except ValueError:  # also for letters that no base64 has
                return self.text.encode()
        return self.text.encode()

    @property
    def identity(self) -> str:
        """The same for all copies of a message."""
        return self.note.identity or self.id

    @property
    def attempts(self) -> int:
        """How often it was taken before, as far as that is charged."""
        return max(0, self.note.attempts + self.receives - 1)

    @property
    def redelivered(self) -> bool:
        return self.note.taken or self.receives > 1

    @property
    def sent_at(self) -> datetime:
        return datetime.fromtimestamp(self.sent, UTC)

    @property
    def can_be_copied(self) -> bool:
        return len(self.attributes) < _ATTRIBUTES

    def kept_note(self) -> Note:
        """The note of a copy that stands for this message as it is now."""
        return replace(self.note, identity=self.identity, attempts=self.attempts, taken=self.redelivered)

    def copy(self, note: Note) -> Outgoing:
        return Outgoing(self.text, {**self.attributes, NOTE: _string(note.text())}, note.group or self.group)

    def as_it_was(self) -> Outgoing:
        """A copy without our note."""
        return Outgoing(self.text, self.attributes, self.group)


def _string(value: str) -> dict[str, str]:
    return {"DataType": "String", "StringValue": value}
