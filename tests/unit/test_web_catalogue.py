import json
import os

import pytest

from studio_runner.web import catalogue
from studio_runner.web.catalogue import Catalogue


@pytest.fixture
def records(tmp_path, monkeypatch):
    """Writes records; each look at them is a fresh one."""
    monkeypatch.setattr(catalogue, "SHORTEST", 0)
    monkeypatch.setattr(catalogue, "SHARE", 0)

    def write(name, text=None, **fields):
        path = tmp_path / name
        path.write_text(json.dumps({"key": name, **fields}) if text is None else text)
        return path

    return write


async def keys(found):
    return [line.key for line in await found.lines()]


async def test_lines_are_in_order_of_submission(records, tmp_path):
    for name, added in (("b", 20.0), ("c", 30), ("a", 10.0), ("unknown", None)):
        records(name, time_added=added)
    assert await keys(Catalogue(tmp_path)) == ["c", "b", "a", "unknown"]


async def test_a_line_says_what_became_of_it(records, tmp_path):
    own = {"queue": "local_q", "host": "h", "attempt": 2, "stage": None, "reason": "stopped", "sentence": "It was."}
    records(
        "k", status="stopped", time_finished=9.0, project="p", filename="t.py", args=["--lr", 1], studio_runner=own
    )
    [line] = await Catalogue(tmp_path).lines()
    assert (line.status, line.reason, line.sentence, line.queue) == ("stopped", "stopped", "It was.", "local_q")
    assert (line.project, line.script, line.attempt, line.time_finished) == ("p", "t.py --lr 1", 2, 9.0)


async def test_addresses_are_shown_without_what_opens_them(records, tmp_path):
    own = {"sentence": "GET http://me:hunter2@host/x?sig=hunter2"}
    records("k", filename="t.py", args=["--from", "s3://key:hunter2@host/b"], studio_runner=own)
    [line] = await Catalogue(tmp_path).lines()
    assert "hunter2" not in repr(line)


async def test_changes_show(records, tmp_path):
    found = Catalogue(tmp_path)
    path = records("k", status="waiting")
    assert (await found.lines())[0].status == "waiting"
    records("k", status="running")
    assert (await found.lines())[0].status == "running"
    path.unlink()
    assert await keys(found) == []


async def test_what_did_not_change_is_not_read_again(records, tmp_path):
    found = Catalogue(tmp_path)
    path = records("k", status="waiting")
    before = path.stat()
    await found.lines()
    path.write_text(path.read_text().replace("waiting", "changed"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (await found.lines())[0].status == "waiting"


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "[" * 100_000, '"\\ud800"'])
async def test_what_is_no_record_is_passed_over(records, tmp_path, text):
    records("odd", text)
    records(".new", "{}")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    records("k")
    assert await keys(Catalogue(tmp_path)) == ["k"]


@pytest.mark.parametrize(
    "fields",
    [
        {"status": 7, "args": 5, "filename": [1], "project": {"a": 1}, "time_added": "yesterday"},
        {"studio_runner": "text", "time_added": True},
        {"time_added": float("nan"), "time_started": float("inf"), "time_finished": -1e300},
        {"studio_runner": {"attempt": "x", "reason": 1, "queue": ["q"]}, "key": 12},
    ],
)
async def test_records_of_other_makers_do_no_harm(records, tmp_path, fields):
    records("k", **fields)
    [line] = await Catalogue(tmp_path).lines()
    assert (line.time_added, line.time_started, line.time_finished) == (None, None, None)


async def test_only_the_latest_changes_are_kept(records, tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "MOST", 2)
    for age, name in enumerate("abc"):
        os.utime(records(name, time_added=age), (age, age))
    assert await keys(Catalogue(tmp_path)) == ["c", "b"]


async def test_no_directory_is_no_record(tmp_path):
    assert await keys(Catalogue(tmp_path / "missing")) == []
