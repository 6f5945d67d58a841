"""Looking at output: tails, live files, waiting for the end."""

import asyncio
import io
import socket
import tarfile

import pytest

from studio_runner.client.holdings import opened_holdings
from studio_runner.client.stores import stores_of
from studio_runner.client.tail import tail_offset
from studio_runner.client.watch import follow_output, live_output, wait, write_stored
from studio_runner.config.settings import StorageSettings
from studio_runner.config.studioml import StudioConfig
from studio_runner.errors import NotFoundError
from studio_runner.reports.records import OWN
from studio_runner.storage.base import CHUNK


@pytest.mark.parametrize(
    ("content", "lines", "expected"),
    [
        (b"a\nb\nc\n", 1, b"c\n"),
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc", 2, b"b\nc"),
        (b"a\nb\nc\n", 3, b"a\nb\nc\n"),
        (b"a\nb\nc\n", 9, b"a\nb\nc\n"),
        (b"a\nb\nc\n", 0, b""),
        (b"\n\n\n", 2, b"\n\n"),
        (b"", 5, b""),
        (b"x" * (3 * CHUNK) + b"\nlast\n", 1, b"last\n"),
        (b"first\n" + b"x" * (2 * CHUNK) + b"\nlast\n", 2, b"x" * (2 * CHUNK) + b"\nlast\n"),
        (b"l\n" * CHUNK, CHUNK - 1, b"l\n" * (CHUNK - 1)),
    ],
)
def test_the_last_lines_of_a_file(content, lines, expected, tmp_path):
    path = tmp_path / "output"
    path.write_bytes(content)
    assert content[tail_offset(path, lines) :] == expected


@pytest.fixture
async def holdings(tmp_path):
    config = StudioConfig()
    async with opened_holdings(config, stores_of(config, tmp_path), StorageSettings()) as opened:
        yield opened


@pytest.fixture
def records(holdings):
    return holdings.records


def place(tmp_path, content=b""):
    (tmp_path / "attempt" / "output").mkdir(parents=True, exist_ok=True)
    (tmp_path / "attempt" / "output" / "output").write_bytes(content)
    return str(tmp_path / "attempt")


def running(directory, attempt=1, host=None):
    own = {"directory": directory, "host": host or socket.gethostname(), "attempt": attempt}
    return {"key": "k", "status": "running", OWN: own}


async def test_output_is_live_only_where_the_experiment_runs(records, tmp_path):
    directory = place(tmp_path)
    for document, live in (
        (running(directory), True),
        (running(directory, host="elsewhere"), False),
        (running(str(tmp_path / "gone")), False),
        ({**running(directory), "status": "finished"}, False),
    ):
        await records.create(document)
        assert (live_output(await records.read("k")) is not None) is live


async def test_waiting_ends_with_the_experiment(holdings, records):
    await records.create({"key": "k", "status": "running"})
    waiting = asyncio.create_task(wait(holdings, "k"))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await records.update("k", {"status": "stopped"})  # only the wish
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await records.update("k", {"time_finished": 2.0})
    assert (await waiting).status == "stopped"


async def test_waiting_for_what_does_not_exist_is_an_error(holdings):
    with pytest.raises(NotFoundError):
        await wait(holdings, "absent")


async def test_following_shows_each_attempt_once_and_ends(holdings, records, tmp_path):
    directory = place(tmp_path, b"one\n")
    await records.create(running(directory))
    written = []
    following = asyncio.create_task(follow_output(holdings, "k", written.append))
    await until(lambda: b"".join(written) == b"one\n")
    with (tmp_path / "attempt/output/output").open("ab") as file:
        file.write(b"two\n")
    await until(lambda: b"".join(written) == b"one\ntwo\n")
    # a second attempt goes on in the output of the first
    await records.update("k", {"status": "waiting"})
    place(tmp_path, b"one\ntwo\nthree\n")
    await records.update("k", running(directory, attempt=2))
    await until(lambda: b"".join(written) == b"one\ntwo\nthree\n")
    await records.update("k", {"status": "finished", "time_finished": 3.0, OWN: {"reason": "completed"}})
    assert (await following).reason == "completed"
    assert b"".join(written) == b"one\ntwo\nthree\n"


async def test_following_may_begin_with_the_tail(holdings, records, tmp_path):
    await records.create(running(place(tmp_path, b"one\ntwo\nthree\n")))
    written = []
    following = asyncio.create_task(follow_output(holdings, "k", written.append, tail=1))
    await until(lambda: b"".join(written) == b"three\n")
    await records.update("k", {"status": "finished", "time_finished": 3.0})
    await following


SECRET = b"canary-of-nobody"


def stored(tmp_path, content):
    """The output as a runner elsewhere has stored it; its artifact."""
    path = tmp_path / "output.tar"
    member = tarfile.TarInfo("output")
    member.size = len(content)
    with tarfile.open(tmp_path / "new", "w") as archive:
        archive.addfile(member, io.BytesIO(content))
    (tmp_path / "new").rename(path)
    return {"output": {"qualified": f"file://{path}", "key": path.name, "mutable": True, "unpack": True}}


def hidden(until, *ranges):
    return {OWN: {"hidden": {"until": until, "ranges": [list(one) for one in ranges]}}}


async def test_of_stored_output_is_hidden_what_the_record_says(holdings, records, tmp_path):
    artifacts = stored(tmp_path, b"key " + SECRET + b"\nlast\n")
    over = {"key": "k", "status": "finished", "time_finished": 3.0, "artifacts": artifacts}
    await records.create({**over, **hidden(99, (4, len(SECRET)))})
    for tail, expected in ((None, b"key " + b"*" * len(SECRET) + b"\nlast\n"), (1, b"last\n")):
        written = []
        await follow_output(holdings, "k", written.append, tail)
        assert b"".join(written) == expected


async def test_of_what_runs_elsewhere_nothing_is_shown_before_it_is_known_what_is_secret(
    holdings, records, tmp_path, monkeypatch
):
    monkeypatch.setattr("studio_runner.client.watch._MIRROR", 0.05)
    artifacts = stored(tmp_path, b"one\n")
    await records.create({**running(None, host="elsewhere"), "artifacts": artifacts})
    await records.update("k", hidden(4))
    written = []
    following = asyncio.create_task(follow_output(holdings, "k", written.append))
    await until(lambda: b"".join(written) == b"one\n")
    stored(tmp_path, b"one\n" + SECRET + b"\n")
    await asyncio.sleep(0.3)
    assert b"".join(written) == b"one\n"
    seen = []
    await write_stored(holdings, await records.read("k"), seen.append)
    assert seen == [b"one\n"]
    await records.update("k", hidden(99, (4, len(SECRET))))
    await until(lambda: b"".join(written) == b"one\n" + b"*" * len(SECRET) + b"\n")
    await records.update("k", {"status": "finished", "time_finished": 3.0})
    await following


async def test_what_is_secret_in_ones_own_configuration_is_not_shown(tmp_path):
    config = StudioConfig(document={"cloud": {"password": SECRET.decode()}})
    async with opened_holdings(config, stores_of(config, tmp_path), StorageSettings()) as holdings:
        artifacts = stored(tmp_path, b"key " + SECRET)
        await holdings.records.create(
            {"key": "k", "status": "finished", "time_finished": 3.0, "artifacts": artifacts}
        )
        written = []
        await follow_output(holdings, "k", written.append)
    assert b"".join(written) == b"key " + b"*" * len(SECRET)


async def until(true):
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)
