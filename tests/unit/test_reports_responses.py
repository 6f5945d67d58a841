"""What senders are told on their response queues, sealed for them."""

import asyncio
import json
import logging
import os
from contextlib import asynccontextmanager
from itertools import count

import pytest

from studio_runner.config.keys import files
from studio_runner.config.keys.files import KeyDirectory
from studio_runner.errors import BrokerError, Reason
from studio_runner.messages.keys import read_sealing_key
from studio_runner.queues.memory import MemoryBroker
from studio_runner.reports import despatch, responses, story
from studio_runner.reports.base import Ended, Reports, Started, Subject
from studio_runner.reports.responses import Responses
from tests import specification

QUEUE = "local_team"


class Broker(MemoryBroker):
    """One that may be out of order."""

    up = True

    async def exists(self, queue):
        self._check()
        return await super().exists(queue)

    async def report(self, queue, text):
        self._check()
        return await super().report(queue, text)

    def _check(self):
        if not self.up:
            raise BrokerError("no answer")


@pytest.fixture(scope="module")
def key():
    return specification.new_key()


@pytest.fixture
def directory(tmp_path, key):
    (tmp_path / "local_te").write_bytes(specification.public_pem(key))
    return tmp_path


@pytest.fixture
async def broker():
    async with Broker() as made:
        await made.create(f"{QUEUE}_response")
        yield made


@pytest.fixture
def telling(directory, broker):
    @asynccontextmanager
    async def opened():
        reporter = Responses(KeyDirectory(directory, read_sealing_key))
        async with reporter.sending(broker):
            yield reporter

    return opened


def subject(number=1, name="digits-1", queue=QUEUE):
    return Subject(name, {"key": name}, queue, number, "trainer-7", None, "runner-1")


def ended(
    about, reason=Reason.COMPLETED, sentence="The script ran to its end.", *, final=True, code=None, signal=None
):
    return Ended(about, 190.5, reason, sentence, code, signal, final, 1, 1.0, 100.0)


def taken(broker, key, queue=QUEUE):
    """All reports that there are, in the order of the queue."""
    return [specification.parse(specification.opened(message.body, key)) for message in _messages(broker, queue)]


def _messages(broker, queue):
    return list(broker._queue(f"{queue}_response").waiting)


def told(report):
    """What a report says, in short."""
    kind = report.WhichOneof("payload")
    if kind == "logging":
        return report.logging.message.value
    if report.progress.HasField("json"):
        return report.progress.json.value
    return next(
        name for name, number in specification.ENUMS["TaskState"].items() if number == report.progress.state
    )


async def settled(broker, count):
    async with asyncio.timeout(60):
        while len(_messages(broker, QUEUE)) < count:
            await asyncio.sleep(0.01)


async def test_the_sequence_of_an_experiment(telling, broker, key):
    async with telling() as reporter:
        about = subject()
        await reporter.report(Started(about, 100.0))
        for line in (b'{"loss": 0.1}', b"[1]\r", b"{not json}"):
            reporter.printed(about, line)
        await reporter.report(ended(about))
    found = taken(broker, key)
    assert [told(report) for report in found] == [
        *("scanning queue", "Started", "start", '{"loss": 0.1}', "[1]", "stop", "Success")
    ]
    assert {report.experiment_id.value for report in found} == {"digits-1"}
    assert {report.executor_id.value for report in found} == {"trainer-7"}
    assert len({report.unique_id.value for report in found}) == 1
    assert [entry.logging.severity for entry in found if entry.HasField("logging")] == [200, 300, 300]
    assert dict(found[0].logging.fields) == {"queue_name": QUEUE}
    assert dict(found[-2].logging.fields) == {"success": "true", "error": "", "reason": "completed"}
    assert [report.time.seconds for report in (*found[:3], *found[-2:])] == [100, 100, 100, 190, 190]
    assert found[1].progress.time == found[1].time
    assert not found[-1].progress.HasField("error")
    assert found[3].progress.state == 0


@pytest.mark.parametrize(
    ("end", "code"), [({"code": 3}, 3), ({"signal": 9}, 137), ({}, 0)], ids=["exit", "signal", "neither"]
)
async def test_a_failure(telling, broker, key, end, code):
    sentence = "Not at https://host/x."
    async with telling() as reporter:
        await reporter.report(Started(subject(), 100.0))
        await reporter.report(ended(subject(), Reason.SCRIPT_FAILED, sentence, **end))
    last = taken(broker, key)[-2:]
    assert last[0].logging.fields["success"] == "false"
    assert last[0].logging.fields["error"] == "Not at https://host/x."
    assert told(last[1]) == "Failed"
    assert last[1].progress.error.msg.value == "Not at https://host/x."
    assert last[1].progress.error.code == code


async def test_an_attempt_that_is_not_the_last_is_stopping(telling, broker, key):
    async with telling() as reporter:
        for number, final in ((1, False), (2, True)):
            await reporter.report(Started(subject(number), 100.0))
            reporter.printed(subject(number), b"[%d]" % number)
            await reporter.report(ended(subject(number), Reason.STORAGE_UNAVAILABLE, "No answer.", final=final))
    found = taken(broker, key)
    words = [told(report) for report in found]
    assert words[:6] == ["scanning queue", "Started", "start", "[1]", "stop", "Stopping"]
    assert words[6:] == ["scanning queue", "Started", "start", "[2]", "stop", "Failed"]
    assert len({report.unique_id.value for report in found[:6]}) == 1
    assert len({report.unique_id.value for report in found}) == 2


async def test_an_experiment_that_never_began(telling, broker, key):
    async with telling() as reporter:
        await reporter.report(ended(subject(), Reason.INVALID_MESSAGE, "No key."))
    assert [told(report) for report in taken(broker, key)] == ["scanning queue", "stop", "Failed"]


async def test_a_key_of_megabytes_is_told_in_short(telling, broker, key):
    async with telling() as reporter:
        await reporter.report(ended(subject(name="x" * 10_000_000), Reason.INVALID_MESSAGE, "No script."))
    assert {report.experiment_id.value for report in taken(broker, key)} == {"x" * 4000}
    assert max(len(message.body) for message in _messages(broker, QUEUE)) < 1 << 15


async def test_nothing_is_made_or_sent_where_nobody_reads(telling, broker, key, directory):
    for queue in ("local_team_b", "rmq_other"):
        async with telling() as reporter:
            await reporter.report(Started(subject(queue=queue), 100.0))
            reporter.printed(subject(queue=queue), b"[]")
            await reporter.report(ended(subject(queue=queue)))
        assert not await broker.exists(f"{queue}_response")


async def test_without_a_key_nothing_is_sent_until_there_is_one(telling, broker, key, directory):
    (directory / "local_te").unlink()
    async with telling() as reporter:
        await reporter.report(Started(subject(), 100.0))
        await reporter.report(ended(subject()))
        await asyncio.sleep(0.1)
        assert not taken(broker, key)
        (directory / f"{QUEUE}_response").write_bytes(specification.public_pem(key))
        await reporter.report(Started(subject(2), 100.0))
        await settled(broker, 3)
    assert [told(report) for report in taken(broker, key)] == ["scanning queue", "Started", "start"]


async def test_a_key_that_cannot_be_used_is_told_of_once(telling, broker, directory, monkeypatch, caplog):
    monkeypatch.setattr(files, "SETTLES", 0.0)
    monkeypatch.setattr(despatch, "SETTLES", 0.0)
    (directory / "local_te").write_text("-----BEGIN RSA PUBLIC KEY-----\nMIIC")
    with caplog.at_level(logging.WARNING):
        async with telling() as reporter:
            for number in (1, 2):
                await reporter.report(Started(subject(number), 100.0))
                await reporter.report(ended(subject(number)))
    assert not _messages(broker, QUEUE)
    [record] = caplog.records
    assert str(directory / "local_te") in record.getMessage()
    assert "nothing is reported to queue local_team_response" in record.getMessage()


async def test_a_key_that_is_half_written_is_waited_for(telling, broker, key, directory):
    whole = specification.public_pem(key)
    (directory / "local_te").write_bytes(whole[:300])
    async with telling() as reporter:
        await reporter.report(Started(subject(), 100.0))
        await asyncio.sleep(0.05)
        (directory / "new").write_bytes(whole)
        os.replace(directory / "new", directory / "local_te")
        await reporter.report(ended(subject()))
    assert [told(report) for report in taken(broker, key)][-1] == "Success"


async def test_lines_wait_for_a_broker_that_is_down_and_the_oldest_are_left_out(telling, broker, key, monkeypatch):
    monkeypatch.setattr(story, "MOST_LINES", 50)
    monkeypatch.setattr(despatch, "FIRST_PAUSE", 0.01)
    broker.up = False
    async with telling() as reporter:
        await reporter.report(Started(subject(), 100.0))
        for number in range(1000):
            reporter.printed(subject(), b"[%d]" % number)
            if number == 500:
                await asyncio.sleep(0.05)
        await reporter.report(ended(subject()))
        broker.up = True
    found = taken(broker, key)
    words = [told(report) for report in found]
    assert words[:3] == ["scanning queue", "Started", "start"]
    assert words[-2:] == ["stop", "Success"]
    assert found[3].logging.severity == 400
    assert dict(found[3].logging.fields) == {"left_out": "950"}
    assert words[4:-2] == [f"[{number}]" for number in range(950, 1000)]


async def test_all_experiments_together_have_so_much_room(telling, broker, key, monkeypatch):
    monkeypatch.setattr(story, "MOST_BYTES_IN_ALL", 1000)
    broker.up = False
    monkeypatch.setattr(despatch, "FIRST_PAUSE", 0.01)
    async with telling() as reporter:
        abouts = [subject(name=f"digits-{number}") for number in range(4)]
        for about in abouts:
            await reporter.report(Started(about, 100.0))
            for _ in range(40):
                reporter.printed(about, b"[12345678]")
        assert reporter._room.used <= 1000
        for about in abouts:
            await reporter.report(ended(about))
        broker.up = True
    assert reporter._room.used == 0
    found = taken(broker, key)
    lines = sum(told(report) == "[12345678]" for report in found)
    left_out = sum(int(report.logging.fields["left_out"]) for report in found if report.logging.severity == 400)
    assert (lines, left_out) == (100, 60)
    assert sum(told(report) == "Success" for report in found) == 4


async def test_a_line_too_long_for_any_broker_is_left_out(telling, broker, key):
    async with telling() as reporter:
        await reporter.report(Started(subject(), 100.0))
        reporter.printed(subject(), json.dumps(["x" * story.LONGEST_LINE]).encode())
        reporter.printed(subject(), b"[2]")
        await reporter.report(ended(subject()))
    found = taken(broker, key)
    assert found[3].logging.fields["left_out"] == "1"
    assert told(found[4]) == "[2]"


async def test_what_is_no_json_is_no_line_of_a_report(telling, broker, key):
    odd = [b'{"loss": NaN}', b"[1e999]", b"[" * 200 + b"]" * 200, b"[\xff]", b"[1] [2]"]
    async with telling() as reporter:
        await reporter.report(Started(subject(), 100.0))
        for line in (*odd, b" [1] "):
            reporter.printed(subject(), line)
        await reporter.report(ended(subject()))
    assert [told(report) for report in taken(broker, key)][3:-2] == ["[1]"]


@pytest.mark.parametrize("character", ["\xe9", "\x7f", '\\"', "\u20ac", "\U0001f600"])
async def test_the_longest_line_fits_into_a_message_of_every_broker(telling, broker, key, character):
    count = (story.LONGEST_LINE - 4) // len(character.encode())
    async with telling() as reporter:
        await reporter.report(Started(subject(), 100.0))
        reporter.printed(subject(), f'["{character * count}"]'.encode())
        await reporter.report(ended(subject()))
    assert json.loads(told(taken(broker, key)[3])) == [json.loads(f'"{character}"') * count]
    assert max(len(message.body) for message in _messages(broker, QUEUE)) < 1 << 18


async def test_a_queue_that_takes_one_now_and_then_is_complained_of_once(telling, broker, key, monkeypatch, caplog):
    monkeypatch.setattr(despatch, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(Broker, "_check", _two_times_of_three())
    with caplog.at_level(logging.WARNING):
        async with telling() as reporter:
            await reporter.report(Started(subject(), 100.0))
            for number in range(10):
                reporter.printed(subject(), b"[%d]" % number)
            await reporter.report(ended(subject()))
    assert len(taken(broker, key)) == 15
    assert len(caplog.records) == 1


def _two_times_of_three():
    calls = count()

    def check(_broker):
        if next(calls) % 3 == 0:
            raise BrokerError("it is full")

    return check


async def test_the_end_of_the_runner_waits_for_a_while(telling, broker, key, monkeypatch, caplog):
    monkeypatch.setattr(responses, "CLOSING", 0.1)
    broker.up = False
    with caplog.at_level(logging.WARNING):
        async with telling() as reporter:
            await reporter.report(Started(subject(), 100.0))
            reporter.printed(subject(), b"[1]")
            await reporter.report(ended(subject()))
    assert "5 reports on experiments were not sent" in caplog.text
    assert "local_team_response does not take reports now" in caplog.text
    assert not taken(broker, key)


async def test_the_end_of_the_runner_leaves_lines_out_before_anything_else(telling, broker, key, monkeypatch):
    monkeypatch.setattr(responses, "CLOSING", 3.0)
    monkeypatch.setattr(story, "BREATH", 0.05)
    async with telling() as reporter:
        await reporter.report(Started(subject(), 100.0))
        for number in range(200):
            reporter.printed(subject(), b"[%d]" % number)
        await reporter.report(ended(subject()))
    found = taken(broker, key)
    assert [told(report) for report in found][-2:] == ["stop", "Success"]
    lines = sum(told(report).startswith("[") for report in found)
    left_out = sum(int(report.logging.fields["left_out"]) for report in found if report.logging.severity == 400)
    assert lines + left_out == 200
    assert left_out


async def test_a_queue_that_vanishes_ends_the_reports_of_the_attempt(telling, broker, key):
    async with telling() as reporter:
        await reporter.report(Started(subject(), 100.0))
        await settled(broker, 3)
        del broker._queues[f"{QUEUE}_response"]
        reporter.printed(subject(), b"[1]")
        await reporter.report(ended(subject()))
        await asyncio.sleep(0.05)
        assert not await broker.exists(f"{QUEUE}_response")
        await broker.create(f"{QUEUE}_response")
        await reporter.report(Started(subject(2), 100.0))
    assert [told(report) for report in taken(broker, key)] == ["scanning queue", "Started", "start"]


async def test_a_mistake_ends_the_reports_of_its_attempt_and_is_told_of(telling, broker, key, caplog):
    async def mistaken(queue, text):
        raise ValueError("a mistake")

    async with telling() as reporter:
        broker.report = mistaken
        await reporter.report(Started(subject(), 100.0))
        reporter.printed(subject(), b"[1]")
        await reporter.report(ended(subject(), Reason.STORAGE_UNAVAILABLE, "No answer.", final=False))
        async with asyncio.timeout(20):
            while reporter._stories:
                await asyncio.sleep(0.01)
        del broker.report
        await reporter.report(Started(subject(2), 100.0))
        await settled(broker, 3)
    assert [told(report) for report in taken(broker, key)] == ["scanning queue", "Started", "start"]
    [record] = caplog.records
    assert "nothing more is reported of this attempt at experiment digits-1" in record.getMessage()
    assert record.exc_info


async def test_too_many_experiments_that_wait_for_their_broker_are_given_up(telling, broker, key, monkeypatch):
    monkeypatch.setattr(responses, "MOST_LINGERING", 2)
    monkeypatch.setattr(despatch, "FIRST_PAUSE", 0.01)
    broker.up = False
    async with telling() as reporter:
        for number in range(5):
            about = subject(name=f"digits-{number}")
            await reporter.report(Started(about, 100.0))
            await reporter.report(ended(about))
        await asyncio.sleep(0.05)
        broker.up = True
    assert {report.experiment_id.value for report in taken(broker, key)} == {"digits-3", "digits-4"}


async def test_nobody_looks_at_lines_when_nobody_listens(telling):
    class Deaf:
        async def report(self, event):
            pass

    assert Reports([Deaf()]).listener(subject()) is None
    async with telling() as reporter:
        assert Reports([Deaf(), reporter]).listener(subject()) is not None


async def test_a_reporter_with_a_mistake_in_it_keeps_nothing_from_the_others(caplog):
    told = []

    class Mistaken:
        async def report(self, event):
            raise KeyError("a mistake")

    class Good:
        async def report(self, event):
            told.append(event)

    event = Started(subject(), 0.0)
    await Reports([Mistaken(), Good()]).report(event)
    assert told == [event]
    assert "Mistaken could not report Started" in caplog.text
    assert "Traceback" in caplog.text
