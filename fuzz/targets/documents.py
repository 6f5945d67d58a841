"""Small documents that others wrote: results, status, experiment records, and what people see of them."""

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path

from studio_runner.client.view import Details, summary
from studio_runner.errors import InvalidMessageError
from studio_runner.messages.results import parse_results, stop_requested
from studio_runner.messages.secrets import without_secrets
from studio_runner.reports.documents import Edit
from studio_runner.reports.records import Record, Records
from studio_runner.web.catalogue import line_of

MAX_LEN = 4096
WORDS = (
    *(b'"exit_msg"', b'"artifacts"', b'"name"', b'"status"', b'"stopped"', b'"studio_runner"', b'"attempts"'),
    *(b'"time_started"', b'"time_finished"', b'"time_added"', b'"peak_memory"', b'"cpu_seconds"', b'"reserved"'),
    *(
        b'"args"',
        b'"filename"',
        b'"owner"',
        b'"project"',
        b'"gpus"',
        b"1e400",
        b"NaN",
        b"-1",
        b'"\\ud800"',
        b"[[[[[[",
    ),
)
_loop = asyncio.new_event_loop()


class _Documents:
    """In memory, of one content."""

    def __init__(self, content: bytes) -> None:
        self.content: bytes | None = content

    async def read(self, key: str) -> bytes | None:
        Path(key).parts[0].encode()
        return self.content

    async def change(self, key: str, edit: Edit) -> None:
        assert ".." not in Path(key).parts
        key.encode()
        changed = edit(self.content)
        if key.startswith("experiments/") and changed is not None:
            self.content = changed

    async def version(self, key: str) -> str | None:
        return key

    async def all(self, prefix: str) -> list[tuple[str, bytes]]:
        return [(prefix, self.content or b"")]


def seeds() -> Iterable[bytes]:
    yield b'{"exit_msg":"ok","experiment_id":"k","host":"h","artifacts":{"output":{"name":"output.tar"}},"exit_code":0}'
    yield b'{"exit_msg":"x","time_started":1,"time_finished":2.5,"attempt":1,"reason":"timed_out","sentence":"s","signal":9}'
    yield b'{"key":"k","status":"stopped"}'
    yield json.dumps(
        {
            "key": "k",
            "status": "finished",
            "args": ["a", 1],
            "filename": "f.py",
            "owner": "o",
            "project": "p",
            "pythonenv": ["a==1"],
            "resources_needed": {"cpus": 1, "ram": "1gb"},
            "time_added": 1.7e9,
            "time_started": 1.7e9,
            "time_finished": 1.7e9,
            "studio_runner": {
                "attempts": [{"number": 1, "host": "h", "started": 1.7e9, "ended": 1.7e9, "reason": "completed",
                              "reserved": {"cores": 1, "memory": 10, "disk": 10, "gpu_fraction": 2,
                                           "gpus": [{"name": "g", "uuid": "u"}]}}],
                "peak_memory": 1000, "cpu_seconds": 1.5, "exit_code": 0, "queue": "q", "host": "h", "attempt": 1,
            },
        }
    ).encode()  # fmt: skip


def check(data: bytes) -> None:
    try:
        results = parse_results(data)
    except InvalidMessageError as error:
        str(error).encode()
    else:
        repr(results)
        assert results.ok == (results.exit_msg == "ok")
    stop_requested(data)
    _loop.run_until_complete(_recorded(data))


async def _recorded(data: bytes) -> None:
    documents = _Documents(data)
    records = Records(documents)
    for found in await records.list():
        _shown(found)
    record = await records.read("k")
    if record is None:
        return
    await records.update("k", {"status": "running", "studio_runner": {"host": "h"}})
    assert json.loads(documents.content or b"")["status"] == "running"
    await records.create({"key": "k", **record.document})


def _shown(record: Record) -> None:
    summary(record, 1.8e9)
    line_of(record)
    details = Details(record, [])
    details.attempts()
    details.fields(1.8e9)
    json.dumps(without_secrets(details.document()))
