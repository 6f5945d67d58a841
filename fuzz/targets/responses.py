"""Reports in clear text, as they come out of a response queue, and what messages on queues are called."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime

from fuzz.target import SAMPLES
from studio_runner.errors import InvalidMessageError
from studio_runner.messages.naming import is_called, name_of
from studio_runner.messages.report import (
    Failure,
    Foreign,
    LogEntry,
    Progress,
    Report,
    Severity,
    State,
    read_report,
    write_report,
)

MAX_LEN = 2048
WORDS = (
    *(b'"experimentId"', b'"unique_id"', b'"executorId"', b'"logging"', b'"progress"', b'"protoAny"', b'"text"'),
    *(
        b'"severity"',
        b'"fields"',
        b'"state"',
        b'"error"',
        b'"code"',
        b'"msg"',
        b'"time"',
        b'"Warning"',
        b'"0001-01-01T',
    ),
    *(
        b"00:00:00.5+23:59",
        b'"message"',
        b'"payload"',
        b'"experiment"',
        b'"key"',
        b'"\\ud800"',
        b"1e400",
        b"2147483648",
    ),
)
_NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def seeds() -> Iterable[bytes]:
    yield next(iter(sorted(SAMPLES.glob("*.json")))).read_bytes()[:MAX_LEN]
    yield b'{"message":{"payload":"AAAA,AAAA"}}'
    for payload in (
        LogEntry("start", Severity.INFO, {"queue_name": "rmq_q"}, _NOW),
        Progress(State.FAILED, '{"loss":1}', Failure("why", 3), _NOW),
        Foreign({"@type": "x", "value": [1]}),
        "text",
        None,
    ):
        yield write_report(Report("k", "u", "h", payload, _NOW))


def check(data: bytes) -> None:
    name = name_of(data)
    assert not name or is_called(data, name)
    try:
        report = read_report(data)
    except InvalidMessageError as error:
        str(error).encode(errors="surrogatepass")
        return
    repr(report)
    written = write_report(report)
    json.loads(written)
    assert write_report(read_report(written)) == written
