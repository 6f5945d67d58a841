import asyncio
import json

import pytest

from studio_runner.errors import Reason
from studio_runner.reports.base import Checkpointed, Ended, StageEntered, Started, Subject
from studio_runner.web import events
from studio_runner.web.events import Events

EXPERIMENT = {
    "key": "k",
    "project": "digits",
    "artifacts": {"a": {"credentials": {"plain": {"password": "hunter2"}}}},
}
SUBJECT = Subject(key="k", experiment=EXPERIMENT, queue="local_q", number=2, host="h", directory=None)


def stage(name):
    return StageEntered(SUBJECT, 1.5, name)


class Listener:
    """Reads a stream as a browser does; hints of when to come back are left out."""

    def __init__(self, hub, last_seen=None):
        self._stream = hub.stream(last_seen)

    async def begin(self):
        assert await anext(self._stream) == events.RETRY
        return self

    async def next(self):
        fields = dict(line.split(": ", 1) for line in (await anext(self._stream)).decode().strip().splitlines())
        return fields["event"], json.loads(fields["data"]), fields["id"]

    async def over(self):
        with pytest.raises(StopAsyncIteration):
            await anext(self._stream)


async def listening(hub, last_seen=None):
    return await Listener(hub, last_seen).begin()


async def test_every_kind_of_event_is_told_without_the_request():
    hub = Events()
    listener = await listening(hub)
    end = Ended(
        SUBJECT,
        9.0,
        Reason.SCRIPT_FAILED,
        "see s3://host/x",
        3,
        None,
        final=True,
        peak_memory=1,
        cpu_seconds=1,
    )
    happened = [Started(SUBJECT, 1.0), stage("run"), Checkpointed(SUBJECT, 2.0), end]
    for event in happened:
        await hub.report(event)
    told = [await listener.next() for _ in happened]

    assert [name for name, _, _ in told] == ["started", "stage", "checkpoint", "ended"]
    assert told[0][1] == {"key": "k", "attempt": 2, "queue": "local_q", "project": "digits", "at": 1.0}
    assert told[1][1]["stage"] == "run"
    assert told[3][1]["reason"] == "script_failed"
    assert told[3][1]["exit_code"] == 3
    assert "hunter2" not in json.dumps([data for _, data, _ in told])


async def test_a_listener_hears_nothing_of_the_past_unless_it_asks():
    hub = Events()
    await hub.report(stage("prepare"))
    listener = await listening(hub)
    await hub.report(stage("run"))
    assert (await listener.next())[1]["stage"] == "run"


async def test_a_listener_goes_on_where_it_was():
    hub = Events()
    first = await listening(hub)
    for name in ("prepare", "run", "finish"):
        await hub.report(stage(name))
    _, _, seen = await first.next()
    again = await listening(hub, seen)
    assert [(await again.next())[1]["stage"] for _ in range(2)] == ["run", "finish"]


@pytest.mark.parametrize("last_seen", ["", "7", "another-1", "x-y", "-", "²", "1" * 400])
async def test_an_id_that_says_nothing_here_begins_with_a_reset(last_seen):
    hub = Events()
    listener = await listening(hub, last_seen)
    name, _, identity = await listener.next()
    assert name == "reset"
    await hub.report(stage("run"))
    assert (await (await listening(hub, identity)).next())[1]["stage"] == "run"


async def test_who_missed_too_much_is_reset(monkeypatch):
    monkeypatch.setattr(events, "KEPT", 3)
    hub = Events()
    listener = await listening(hub)
    await hub.report(stage("0"))
    _, _, seen = await listener.next()
    for number in range(1, 4):
        await hub.report(stage(str(number)))
    assert (await (await listening(hub, seen)).next())[1]["stage"] == "1"
    await hub.report(stage("4"))
    assert (await (await listening(hub, seen)).next())[0] == "reset"


async def test_a_listener_that_falls_behind_is_let_go(monkeypatch):
    monkeypatch.setattr(events, "KEPT", 3)
    hub = Events()
    slow = await listening(hub)
    waiting = asyncio.create_task(slow.next())
    await asyncio.sleep(0)
    await hub.report(stage("0"))
    assert (await waiting)[1]["stage"] == "0"
    for number in range(1, 6):
        await hub.report(stage(str(number)))
    await slow.over()


async def test_silence_is_filled(monkeypatch):
    monkeypatch.setattr(events, "HEARTBEAT", 0.01)
    stream = Events().stream(None)
    assert [await anext(stream) for _ in range(3)] == [events.RETRY, events.SILENCE, events.SILENCE]


async def test_closing_ends_every_stream():
    hub = Events()
    listeners = [await listening(hub) for _ in range(2)]
    ends = [asyncio.create_task(listener.over()) for listener in listeners]
    await asyncio.sleep(0)
    hub.close()
    await asyncio.gather(*ends)
