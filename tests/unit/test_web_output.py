import asyncio
import os
import tempfile
import zlib

import pytest

from studio_runner.client.artifact_files import TooLargeError
from studio_runner.client.opening import HereOpener
from studio_runner.client.tail import View
from studio_runner.errors import NotFoundError
from studio_runner.messages.masking import Masker
from studio_runner.reports.records import Record
from studio_runner.storage.archive import pack_file
from studio_runner.web import output

VIEW = View(Masker())


@pytest.fixture
def directory(tmp_path):
    place = tmp_path / "output"
    place.mkdir()
    (place / "output").write_bytes(b"0123456789")
    return place


async def content(response):
    return b"".join([piece async for piece in response.body_iterator])


@pytest.mark.parametrize(
    ("tail", "expected"), [(None, b"0123456789"), (3, b"789"), (0, b""), (10, b"0123456789"), (99, b"0123456789")]
)
async def test_the_file_or_its_end(directory, tail, expected):
    response = output.whole(output.open_output(directory), tail, VIEW)
    assert response.headers["content-length"] == str(len(expected))
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert await content(response) == expected


async def test_what_is_written_meanwhile_does_not_count(directory):
    response = output.whole(output.open_output(directory), None, VIEW)
    with (directory / "output").open("ab") as file:
        file.write(b"more")
    assert await content(response) == b"0123456789"


@pytest.mark.parametrize(("tail", "start"), [(2, b"89"), (None, b"0123456789")])
async def test_following_goes_on_until_it_is_over(directory, tail, start):
    over = asyncio.Event()
    pieces = output.live(directory, over.is_set, tail, VIEW).body_iterator
    assert await anext(pieces) == start
    with (directory / "output").open("ab") as file:
        file.write(b" more")
    over.set()
    assert b"".join([piece async for piece in pieces]) == b" more"


def secret(tmp_path):
    (tmp_path / "secret").write_text("secret")
    return tmp_path / "secret"


def file_link(directory, tmp_path):
    (directory / "output").unlink()
    (directory / "output").symlink_to(secret(tmp_path))


def directory_link(directory, tmp_path):
    place = tmp_path / "elsewhere"
    place.mkdir()
    secret(tmp_path).rename(place / "output")
    (directory / "output").unlink()
    directory.rmdir()
    directory.symlink_to(place)


def pipe(directory, _tmp_path):
    (directory / "output").unlink()
    os.mkfifo(directory / "output")


def nothing(directory, _tmp_path):
    (directory / "output").unlink()


def no_file(directory, _tmp_path):
    (directory / "output").unlink()
    (directory / "output").mkdir()


@pytest.mark.parametrize("change", [file_link, directory_link, pipe, nothing, no_file])
def test_only_a_file_of_its_own_is_read(directory, tmp_path, change):
    change(directory, tmp_path)
    with pytest.raises(NotFoundError):
        output.open_output(directory)
    with pytest.raises(NotFoundError):
        output.live(directory, lambda: True, None, VIEW)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Makes a record of what lies in a store, and is unpacked into the directory `unpacked`."""
    (tmp_path / "unpacked").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "unpacked"))

    def make(archive):
        path = tmp_path / "output.tar"
        path.write_bytes(archive)
        artifact = {"qualified": path.as_uri(), "mutable": True, "unpack": True}
        return Record("k", {"artifacts": {"output": artifact}})

    return make


async def test_stored_output_is_read_and_leaves_nothing(stored, tmp_path):
    file = await output.StoredOutputs(HereOpener(), 100).open(stored(pack_file("output", b"0123456789")))
    assert os.listdir(tmp_path / "unpacked") == []
    assert await content(output.whole(file, 3, VIEW)) == b"789"


@pytest.mark.parametrize("squeezed", [bytes, lambda archive: zlib.compress(archive, wbits=31)])
async def test_stored_output_is_not_unpacked_without_bound(stored, tmp_path, squeezed):
    outputs = output.StoredOutputs(HereOpener(), 100)
    with pytest.raises(TooLargeError, match="'output' of experiment k has more than 1 KB") as caught:
        await outputs.open(stored(squeezed(pack_file("output", bytes(5_000_000)))))
    assert "studio-runner fetch k output" in caught.value.hint
    assert os.listdir(tmp_path / "unpacked") == []


async def test_where_outputs_have_no_limit_stored_ones_have_none(stored):
    file = await output.StoredOutputs(HereOpener(), 0).open(stored(pack_file("output", bytes(5_000_000))))
    assert len(await content(output.whole(file, None, VIEW))) == 5_000_000


async def test_so_many_stored_outputs_are_open_at_a_time(stored):
    outputs, record = output.StoredOutputs(HereOpener(), 100), stored(pack_file("output", b"0123456789"))
    answers = [output.whole(await outputs.open(record), None, VIEW) for _ in range(output.MOST_STORED)]
    with pytest.raises(output.BusyError):
        await outputs.open(record)
    assert await content(answers.pop()) == b"0123456789"
    (await outputs.open(record)).close()
    for answer in answers:
        await content(answer)


async def test_answers_that_were_never_asked_for_count_for_nothing(stored):
    outputs, record = output.StoredOutputs(HereOpener(), 100), stored(pack_file("output", b"0123456789"))
    for _ in range(2 * output.MOST_STORED):
        (await outputs.open(record)).close()
    missing = Record("k", {"artifacts": {"output": {"qualified": "file:///nowhere/o.tar", "mutable": True}}})
    for _ in range(2 * output.MOST_STORED):
        with pytest.raises(NotFoundError):
            await outputs.open(missing)
