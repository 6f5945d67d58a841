import asyncio
import errno
import json
import os
import re
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studio_runner.process.follow import follow
from studio_runner.process.lines import LineScanner
from studio_runner.process.output import Gap, Output, find_gap
from tests.full_disk import files_up_to

LIMIT = 8192


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "output").mkdir()
    return tmp_path / "output" / "output"


def lines(count: int, start: int = 0) -> bytes:
    return b"".join(b"line %06d\n" % number for number in range(start, start + count))


def test_what_is_written_is_on_disk_at_once(path):
    with Output(path, LIMIT) as output:
        output.write(b"half a li")
        assert path.read_bytes() == b"half a li"
        output.write(b"ne\n")
        assert path.read_bytes() == b"half a line\n"


def test_notes_stand_on_lines_of_their_own_and_name_the_runner(path):
    with Output(path, LIMIT) as output:
        output.note("preparing")
        output.write(b"50 %")
        output.note("stopped\nby a person")
        output.write(b"bye\n")
    assert path.read_text() == (
        "[studio-runner] preparing\n50 %\n[studio-runner] stopped\n[studio-runner] by a person\nbye\n"
    )


def test_lines_that_may_be_json_are_handed_over_the_last_one_at_the_end(path):
    found: list[bytes] = []
    with Output(path, 0, LineScanner(found.append)) as output:
        output.write(b'text\n{"loss": 1}\n{"loss"')
        assert found == [b'{"loss": 1}']
        output.write(b": 2}")
    assert found == [b'{"loss": 1}', b'{"loss": 2}']


def test_without_a_limit_everything_stays(path):
    with Output(path, 0) as output:
        output.write(lines(10_000))
    assert path.read_bytes() == lines(10_000)


def test_head_and_tail_stay_and_the_gap_says_how_much_is_missing(path):
    written = lines(5000)
    with Output(path, LIMIT) as output:
        for start in range(0, len(written), 700):
            output.write(written[start : start + 700])
            assert path.stat().st_size <= LIMIT
    content = path.read_bytes()
    head, marker, tail = re.split(rb"(\n\[studio-runner\] \d+ bytes left out here, after the first \d+\n)", content)
    assert written.startswith(head)
    assert written.endswith(tail)
    assert head.endswith(b"\n")
    assert tail.startswith(b"line ")
    assert len(head) >= LIMIT // 8
    assert len(tail) >= LIMIT // 8
    assert int(re.search(rb"\d+", marker)[0]) == len(written) - len(head) - len(tail)


def test_no_other_file_is_left_beside_the_output(path):
    with Output(path, LIMIT) as output:
        output.write(lines(5000))
    assert [found.name for found in path.parents[1].rglob("*")] == ["output", "output"]


def test_a_reader_of_the_old_file_is_not_disturbed(path):
    with Output(path, LIMIT) as output:
        output.write(lines(100))
        with path.open("rb") as reader:
            output.write(lines(5000))
            assert reader.read().startswith(lines(100))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.lists(st.binary(min_size=1, max_size=9000), max_size=12), st.integers(4096, 12_000))
def test_whatever_is_written_the_file_is_bounded_and_counts_right(path, pieces, limit):
    written = b"".join(pieces)
    with Output(path, limit) as output:
        for piece in pieces:
            output.write(piece)
    content = path.read_bytes()
    assert len(content) <= limit
    gap = find_gap(content)
    if gap is None:
        assert content == written
    else:
        assert content[: gap.offset] == written[: gap.offset]
        tail = content[gap.offset + gap.length :]
        assert written.endswith(tail)
        assert gap.offset + gap.omitted + len(tail) == len(written)


def test_a_line_that_looks_like_the_marker_is_not_taken_for_one():
    assert find_gap(b"abc\n[studio-runner] 17 bytes left out here, after the first 99\nabc") is None


async def drained(output: Output, *pieces: bytes) -> None:
    read, write = os.pipe()
    async with asyncio.TaskGroup() as group:
        group.create_task(output.drain(read))
        for piece in pieces:
            await asyncio.to_thread(os.write, write, piece)
        os.close(write)


async def test_a_pipe_is_read_to_its_end(path):
    with Output(path, 0) as output:
        await drained(output, bytes(range(256)) * 100, b"end")
    assert path.read_bytes() == bytes(range(256)) * 100 + b"end"


async def test_a_scanner_with_much_to_do_keeps_nobody_else_waiting(path):
    printed = [json.dumps([number, "x" * 2000]).encode() for number in range(100)]
    found: list[bytes] = []
    beats = [0]

    def look(line: bytes) -> None:
        time.sleep(0.006)
        found.append(line)

    async def beat() -> None:
        while len(found) < len(printed):
            beats.append(len(found))
            await asyncio.sleep(0)

    with Output(path, 0, LineScanner(look)) as output:
        async with asyncio.TaskGroup() as group:
            group.create_task(beat())
            group.create_task(drained(output, b"\n".join(printed) + b"\n"))
    assert found == printed
    assert max(after - before for before, after in pairwise([*beats, len(found)])) < 20


def test_what_the_scanner_had_no_time_for_it_sees_at_the_end(path):
    printed = [json.dumps([number, "x" * 2000]).encode() for number in range(20)]
    found: list[bytes] = []

    def look(line: bytes) -> None:
        time.sleep(0.006)
        found.append(line)

    with Output(path, 0, LineScanner(look)) as output:
        output.write(b"\n".join(printed))
        assert len(found) < 10
    assert found == printed


async def test_a_cancelled_drain_closes_the_pipe(path):
    read, write = os.pipe()
    with Output(path, 0) as output:
        task = asyncio.create_task(output.drain(read))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    with pytest.raises(BrokenPipeError):
        os.write(write, b"x")
    os.close(write)


async def test_a_full_disk_is_remembered_and_the_script_goes_on():
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    found: list[bytes] = []
    with Output(full, 0, LineScanner(found.append)) as output:
        await drained(output, b"text\n", b'{"a": 1}\n')
        assert output.error is not None
        assert output.error.errno == errno.ENOSPC
    assert found == [b'{"a": 1}']


def test_what_a_full_disk_did_not_take_is_stored_when_there_is_room_again(path):
    with Output(path, 0) as output:
        with files_up_to(6):
            output.write(b"stored, and kept\n")
            output.write(b"kept\n")
            assert output.error is not None
        output.note("over")
        assert output.error is None
    assert path.read_text() == "stored, and kept\nkept\n[studio-runner] over\n"


def test_of_much_that_a_full_disk_did_not_take_the_end_is_stored(path):
    flood = lines(50_000)
    with Output(path, 0) as output, files_up_to(6):
        output.write(b"first\n")
        for start in range(0, len(flood), 10_000):
            output.write(flood[start : start + 10_000])
    first, note, rest = path.read_text().partition("\n[studio-runner] ")
    said, _, rest = rest.partition("\n")
    lost = int(said.split()[0])
    assert (first, note) == ("first\n", "\n[studio-runner] ")
    assert said == f"{lost} bytes of output could not be stored here: File too large"
    assert rest.encode() == flood[lost:]
    assert len(rest) == 65536


async def followed(path: Path, write) -> bytes:
    """What a follower sees of what the coroutine function `write` writes; it is given what was seen so far."""
    finished = False
    seen = bytearray()

    async def look() -> None:
        async for data in follow(path, lambda: finished):
            seen.extend(data)

    async with asyncio.TaskGroup() as group:
        group.create_task(look())
        await write(seen)
        finished = True
    return bytes(seen)


async def test_a_follower_sees_a_file_that_does_not_exist_yet_from_its_start_to_its_end(path):
    async def write(seen: bytearray) -> None:
        await asyncio.sleep(0.03)
        with Output(path, LIMIT) as output:
            for _ in range(3):
                output.write(b"more\n")
                await asyncio.sleep(0.03)
            output.write(b"last\n")

    assert await followed(path, write) == b"more\nmore\nmore\nlast\n"


async def test_a_follower_who_keeps_up_does_not_notice_the_gap(path):
    async def write(seen: bytearray) -> None:
        with Output(path, LIMIT) as output:
            for number in range(0, 2000, 40):
                output.write(lines(40, number))
                await asyncio.sleep(0.002)
                while len(seen) < (number + 40) * 12:
                    await asyncio.sleep(0.01)
        assert find_gap(path.read_bytes()) is not None

    assert await followed(path, write) == lines(2000)


@pytest.mark.parametrize("before", [0, 200_000, (1 << 18) - 60, (1 << 18) - 1, 1 << 18, 700_000])
async def test_a_follower_finds_the_gap_wherever_it_is(path, before):
    """A file longer than one piece, with the marker at every place in and between the pieces."""
    head = b"h" * before
    old = head + Gap(before, 0, 5000).marker() + b"t" * 100
    path.write_bytes(old)
    pieces = follow(path, lambda: False)
    seen = b""
    while len(seen) < len(old):
        seen += await anext(pieces)
    replaced = path.with_name("new")
    replaced.write_bytes(head + Gap(before, 0, 5050).marker() + b"t" * 50 + b"newer")
    replaced.rename(path)
    assert await asyncio.wait_for(anext(pieces), 60) == b"newer"
    await pieces.aclose()


async def test_a_follower_who_falls_behind_is_shown_the_gap(path):
    async def write(seen: bytearray) -> None:
        with Output(path, LIMIT) as output:
            output.write(lines(100))
            await asyncio.sleep(0.1)
            output.write(lines(5000, 100))

    seen = await followed(path, write)
    before, after = re.split(rb"\n\[studio-runner\] \d+ bytes left out here[^\n]*\n", seen)
    assert len(before) >= len(lines(100))
    assert lines(5100).startswith(before)
    assert lines(5100).endswith(after)


async def test_the_end_is_read_after_the_file_was_removed(path):
    async def write(seen: bytearray) -> None:
        with Output(path, LIMIT) as output:
            output.write(b"first\n")
            while not seen:
                await asyncio.sleep(0.01)
            path.unlink()
            output.write(b"last\n")

    assert await followed(path, write) == b"first\nlast\n"


async def test_following_can_begin_in_the_middle(path):
    path.write_bytes(b"0123456789")
    assert [data async for data in follow(path, lambda: True, start=4)] == [b"456789"]


async def test_a_follower_is_not_led_elsewhere(tmp_path):
    """The experiment puts a link, a directory of a link or a pipe in the place of its output."""
    secret = tmp_path / "secret" / "output"
    secret.parent.mkdir()
    secret.write_bytes(b"of the runner")
    place = tmp_path / "output"
    place.mkdir()
    (place / "output").symlink_to(secret)
    (place / "pipe").symlink_to(secret)
    (tmp_path / "linked").symlink_to(secret.parent)
    os.mkfifo(place / "fifo")
    for path in (place / "output", tmp_path / "linked" / "output", place / "fifo", place):
        assert [data async for data in follow(path, lambda: True)] == []
    assert [data async for data in follow(secret, lambda: True)] == [b"of the runner"]


async def test_a_follower_stops_at_a_link_that_takes_the_files_place(path, tmp_path):
    (tmp_path / "secret").write_bytes(b"of the runner, and long enough to be read on")

    async def write(seen: bytearray) -> None:
        path.write_bytes(b"first\n")
        while not seen:
            await asyncio.sleep(0.01)
        path.unlink()
        path.symlink_to(tmp_path / "secret")
        await asyncio.sleep(0.1)

    assert await followed(path, write) == b"first\n"


def test_what_is_left_out_does_not_lead_the_runner_elsewhere(path, tmp_path):
    """The experiment foresees where the runner will write."""
    victim, elsewhere = tmp_path / "victim", tmp_path / "elsewhere"
    victim.write_bytes(b"of the runner")
    elsewhere.mkdir()
    with Output(path, LIMIT) as output:
        (path.parent.parent / f".{path.name}.new").symlink_to(victim)
        path.parent.rename(path.parent.with_name("moved"))
        path.parent.symlink_to(elsewhere)
        output.write(lines(2000))
    assert victim.read_bytes() == b"of the runner"
    assert list(elsewhere.iterdir()) == []
    assert find_gap((path.parent.with_name("moved") / path.name).read_bytes()) is not None


def test_a_script_that_cuts_its_output_short_does_not_stop_the_runner(path):
    with Output(path, LIMIT) as output:
        output.write(lines(400))
        os.truncate(path, 0)
        output.write(lines(2000, start=400))
    assert path.read_bytes().endswith(b"line 002399\n")
    assert len(path.read_bytes()) <= LIMIT


@pytest.mark.parametrize("omitted", [b"9" * 19, b"9" * 5000])
async def test_a_marker_with_numbers_of_many_digits_is_none(path, omitted):
    """Whatever a script prints or writes there, those who follow must not fail of it."""
    forged = b"\n[studio-runner] %b bytes left out here, after the first 0\n" % omitted
    path.write_bytes(forged + forged.replace(b"first 0", b"first " + omitted))
    assert find_gap(path.read_bytes()) is None
    assert b"".join([piece async for piece in follow(path, lambda: True)]) == path.read_bytes()
