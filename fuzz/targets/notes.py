"""What travels beside a message: SQS attributes and AMQP headers, which anybody who can send may write."""

import json
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from pamqp.commands import Basic
from pamqp.header import ContentHeader

from studio_runner.queues.rabbitmq import wire
from studio_runner.queues.rabbitmq.passport import HEADER, Passport
from studio_runner.queues.sqs.messages import ENCODING, MOST_ATTEMPTS, NOTE, Message, Note

MAX_LEN = 1024
WORDS = (
    *(b'"identity"', b'"attempts"', b'"taken"', b'"history"', b'"origin"', b'"group"', b'"reason"', b'"holder"'),
    *(b"1e999", b"Infinity", b"NaN", b"-1", b"null", b"9" * 20, b"[[[[[[", b"base64:", b"\xc3\xa9"),
    *(HEADER.encode(), b"x-death", b"expired", b"\x08attemptsI", b"\x02idS", b"\x04turnl", b"A\0\0\0\x05"),
)


def seeds() -> Iterable[bytes]:
    yield b"base64:e30="
    yield b"[" * 1000
    yield json.dumps({"identity": "i", "attempts": 3, "taken": True, "history": ["a", "b"], "origin": "q"}).encode()
    passport = Passport(id="i", attempts=2, turn=3, holder="h", history=("a",))
    death = {"reason": "expired", "queue": "studio-runner.hold.h", "count": 2}
    for headers in ({}, {"x-death": [death]}, {"a": {"b": [1, "c", True, None, 1.5]}}):
        yield bytes(Basic.Properties(headers=passport.headers(headers), app_id="studioml").marshal())


def check(data: bytes) -> None:
    _read_as_attributes(data.decode(errors="replace"))
    header = ContentHeader()
    wire._read_header(header, struct.pack(">HHQ", 60, 0, 0) + data)
    _read_as_headers(header.properties.headers or {})


def _read_as_attributes(text: str) -> None:
    note = Note.parse(text)
    assert Note.parse(note.text()) == note
    attributes = {name: {"DataType": "String", "StringValue": text} for name in (NOTE, ENCODING, "other")}
    message = Message.of(
        {"MessageId": "m", "ReceiptHandle": "h", "Body": text, "Attributes": {}, "MessageAttributes": attributes}
    )
    assert isinstance(message.body, bytes)
    assert 0 <= message.attempts <= MOST_ATTEMPTS
    copy = message.copy(message.kept_note().remembering(text))
    assert json.loads(copy.attributes[NOTE]["StringValue"])["identity"] == message.identity


def _read_as_headers(headers: Mapping[str, Any]) -> None:
    found = Passport.of(headers)
    mine = found.held("i", "me")
    assert mine.is_newer_than(found, "")
    copied = found.returned("i", "why", 1).headers(headers)
    Basic.Properties(headers=copied).marshal()
    again = Passport.of(copied)
    assert again.id == "i"
    assert again.attempts in (found.attempts + 1, 0)
