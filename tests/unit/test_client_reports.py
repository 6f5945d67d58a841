"""Reading reports: in order, each until it was dealt with, whatever else is in the queue."""

import asyncio
import os
from pathlib import Path

import pytest

from studio_runner.client import reports as client
from studio_runner.client.reports import ReportReader, reader_key
from studio_runner.errors import KeyFileError
from studio_runner.messages.keys import SealingKey, private_text, read_opening_key
from studio_runner.messages.report import Progress, Report, State, write_report
from studio_runner.messages.sealing import seal
from studio_runner.queues.memory import MemoryBroker
from tests import specification

QUEUE = "local_team_response"


@pytest.fixture(scope="module")
def key():
    return read_opening_key(specification.private_pem(specification.new_key()))


@pytest.fixture(scope="module")
def other():
    return read_opening_key(specification.private_pem(specification.new_key()))


@pytest.fixture
async def broker(monkeypatch):
    monkeypatch.setattr(client, "QUIET", 0.05)
    async with MemoryBroker() as made:
        await made.create(QUEUE)
        yield made


@pytest.fixture
def aside():
    return []


@pytest.fixture
def read(broker, key, aside):
    """The experiments that reports are about."""

    async def all_there_is(key=key):
        async with ReportReader(broker, QUEUE, key, follow=False, tell=aside.append) as reader:
            return [report.experiment_id async for report in reader]

    return all_there_is


def sealed(name, key):
    report = Report(name, f"{name}.1@runner", "trainer-7", Progress(State.STARTED))
    return seal(write_report(report), SealingKey(key.rsa.public_key())).encode()


async def send(broker, key, *names):
    for name in names:
        assert await broker.report(QUEUE, sealed(name, key))


async def test_reports_are_read_once_and_in_order(broker, key, read):
    await send(broker, key, "a", "b", "c")
    assert await read() == ["a", "b", "c"]
    assert await read() == []


async def test_one_comes_again_whose_reader_failed(broker, key, read):
    await send(broker, key, "a", "b", "c")
    assert await _fails_at("b", ReportReader(broker, QUEUE, key))
    assert await read() == ["b", "c"]


async def _fails_at(name, reader):
    try:
        async with reader:
            async for report in reader:
                assert report.experiment_id != name
    except AssertionError:
        return True
    return False


async def test_the_last_one_counts_as_read_when_its_reader_leaves(broker, key, read):
    await send(broker, key, "a", "b", "c")
    async with ReportReader(broker, QUEUE, key) as reader:
        async for report in reader:
            if report.experiment_id == "b":
                break
    assert await read() == ["c"]


async def test_a_reader_that_follows_waits_for_more(broker, key):
    async with ReportReader(broker, QUEUE, key) as reader:
        coming = asyncio.ensure_future(anext(reader))
        await asyncio.sleep(0.2)
        await send(broker, key, "a")
        assert (await coming).experiment_id == "a"


async def test_with_the_wrong_key_everything_stays_where_it_is(broker, key, other, read, aside):
    await send(broker, key, "a", "b")
    assert await read(other) == []
    assert aside == [f"2 messages cannot be opened with this key and stay in {QUEUE}"]
    assert await read() == ["a", "b"]


async def test_many_that_cannot_be_opened_end_the_reading(broker, key, other, read, monkeypatch):
    monkeypatch.setattr(client, "MOST_UNOPENED", 3)
    await send(broker, key, "a", "b", "c", "d")
    with pytest.raises(KeyFileError, match=r"No message of .* of 3 that were tried"):
        await read(other)
    assert await read() == ["a", "b", "c", "d"]


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_what_is_no_report_is_set_aside_wherever_it_stands(broker, key, read, aside, place):
    good, other = sealed("a", key), read_opening_key(specification.private_pem(specification.new_key()))
    damaged = [
        *(b"", b"no report", b"\xff\xfe", b'{"experiment": {"key": "x"}}', b"a2V5,ZGF0YQ=="),
        *(good[:100] + bytes([good[100] ^ 1]) + good[101:], good[:-8], good + b"A"),
        sealed("x", other),
        seal(b"{}", key.public).encode()[:-1] + b"!",
        seal(b'{"time": 5}', key.public).encode(),
        seal(b"\xff", key.public).encode(),
    ]
    bodies = [good, sealed("b", key)]
    for body in bodies[:place] + damaged + bodies[place:]:
        await broker.report(QUEUE, body)
    assert await read() == ["a", "b"]
    assert sorted(letter.body for letter in await broker.dead_letters(QUEUE)) == sorted(damaged)
    assert len(aside) == len(damaged)
    assert (await broker.status(QUEUE)).waiting == 0


def test_the_key_of_a_reader_has_a_passphrase(tmp_path, key):
    path, word = _file(tmp_path / "key", private_text(key, b"hush")), _file(tmp_path / "word", b"hush\n")
    assert reader_key(path, word).public.fingerprint == key.public.fingerprint
    with pytest.raises(KeyFileError, match=r"key cannot be used: it is encrypted") as caught:
        reader_key(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("which", ["key", "word"])
def test_a_key_that_others_may_read_is_not_used(tmp_path, key, which):
    path, word = _file(tmp_path / "key", private_text(key, b"hush")), _file(tmp_path / "word", b"hush\n")
    (tmp_path / which).chmod(0o644)
    with pytest.raises(KeyFileError, match="can be used by others"):
        reader_key(path, word)


def _file(path: Path, content: bytes) -> Path:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(content)
    return path
