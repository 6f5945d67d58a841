"""What is told of an experiment whose sender wrote anything at all into its message: figures, events, notices."""

import asyncio
import json
from collections.abc import Iterable

from fuzz.target import SAMPLES
from studio_runner.errors import Reason
from studio_runner.machine.inventory import Capacity
from studio_runner.messages.salvage import salvaged
from studio_runner.reports.base import Checkpointed, Ended, Event, StageEntered, Started, Subject
from studio_runner.reports.notices import Notice
from studio_runner.reports.prometheus import CacheFigures, Metrics, Standing
from studio_runner.web.events import Events

MAX_LEN = 2048
WORDS = (
    *(b'"experiment"', b'"key"', b'"project"', b'"owner"', b'"author"', b'"time_added"', b'"\\ud800"', b"1e300"),
    *(b'"\\u0000"', b"NaN", b"null", b"https://u:p@h/?x", b"<!channel>", b"[]", b"{}"),
)
_NONE = Capacity(0, 0, 0)
_loop = asyncio.new_event_loop()


def seeds() -> Iterable[bytes]:
    for path in sorted(SAMPLES.glob("*.json")):
        experiment = json.loads(path.read_bytes())["experiment"]
        told = {name: experiment.get(name) for name in ("key", "project", "owner", "author", "time_added")}
        yield json.dumps({"experiment": told}).encode()


def check(data: bytes) -> None:
    experiment = salvaged(data).experiment
    if experiment is not None:
        subject = Subject(str(experiment["key"]), experiment, "rmq_q", 1, "h", None)
        _loop.run_until_complete(_told(subject))


async def _told(subject: Subject) -> None:
    metrics, events = Metrics(), Events()
    happened: tuple[Event, ...] = (
        Started(subject, 100.0),
        StageEntered(subject, 101.0, "run"),
        Checkpointed(subject, 102.0),
        Ended(
            subject, 103.0, Reason.SCRIPT_FAILED, "It failed.", 1, None, final=True, peak_memory=1, cpu_seconds=1.0
        ),
    )
    for event in happened:
        await metrics.report(event)
        await events.report(event)
        if notice := Notice.of(event):
            json.dumps([notice.document(), notice.text("http://h:9090")]).encode()
            assert "<!" not in notice.text(None)
    none = CacheFigures(0, 0, 0)
    metrics.exposition(Standing("h", _NONE, _NONE, draining=False, running=[subject], queues=(), environments=none))
    events.close()
    async for piece in events.stream(None):
        assert piece
