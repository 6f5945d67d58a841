"""Secrets in output: stored where the operator does not object, shown nowhere."""

import asyncio
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studio_runner.messages.masking import SHOWN, Masker
from studio_runner.process.follow import follow
from studio_runner.process.hidden import MOST, Cover, Notes, fewer, opened_places, places_of
from studio_runner.process.lines import LineScanner
from studio_runner.process.output import Output, Veil, find_gap
from studio_runner.process.shown import Veiled, length_shown, shown
from tests.full_disk import files_up_to

SECRET = "canary-Secret-0123456789"
NOBODY = Masker()
LIMIT = 8192


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    """The directory of an attempt, as the runner makes it."""
    (tmp_path / "hidden").mkdir(exist_ok=True)
    (tmp_path / "experiments" / "key.1" / "output").mkdir(parents=True, exist_ok=True)
    return tmp_path / "experiments" / "key.1"


@pytest.fixture
def path(attempt: Path) -> Path:
    return attempt / "output" / "output"


def opened(path: Path, limit: int = 0, scanner=None, known=(SECRET,)) -> Output:
    return Output(path, limit, scanner, Veil(Masker(known), places_of(path.parent.parent)))


def seen(path: Path, start: int = 0, end: int = 1 << 40, masker: Masker = NOBODY) -> bytes:
    with path.open("rb") as file, opened_places(path.parent.parent) as hidden:
        return b"".join(shown(file, start, end, masker, hidden))


async def followed(path: Path, start: int = 0) -> bytes:
    with opened_places(path.parent.parent) as hidden:
        return b"".join([piece async for piece in follow(path, lambda: True, start, hidden)])


async def test_a_secret_is_stored_and_not_shown(path):
    with opened(path) as output:
        output.write(f"the key is {SECRET}, ".encode())
        output.write(b"and on\n")
        assert seen(path) == b"the key is " + b"*" * len(SECRET) + b", and on\n"
        assert await followed(path) == seen(path)
    assert SECRET.encode() in path.read_bytes()


async def test_a_secret_that_comes_byte_by_byte_shows_its_first_three(path):
    with opened(path) as output:
        for byte in f"key {SECRET}\n".encode():
            output.write(bytes([byte]))
            assert SECRET[: SHOWN + 1].encode() not in await followed(path)
            assert SECRET[: SHOWN + 1].encode() not in seen(path)
    assert seen(path) == b"key " + SECRET[:SHOWN].encode() + b"*" * (len(SECRET) - SHOWN) + b"\n"


def test_what_is_no_secret_is_stored_at_once(path):
    with opened(path) as output:
        for word in (b"Password: ", b"can", b" 5 %\r"):
            before = path.stat().st_size
            output.write(word)
            assert path.stat().st_size == before + len(word)


def test_what_only_begins_like_a_secret_is_stored_at_the_end(path):
    with opened(path) as output:
        output.write(SECRET[:9].encode())
        output.note("something of the runner's")
        assert path.read_bytes() == b"[studio-runner] something of the runner's\n"
    assert path.read_bytes().endswith(SECRET[:9].encode())


async def test_the_end_of_the_pipe_is_the_end_of_the_doubt(path):
    read, write = os.pipe()
    with opened(path) as output:
        os.write(write, SECRET[:9].encode())
        os.close(write)
        await output.drain(read)
        output.note("over")
        assert path.read_text() == f"{SECRET[:9]}\n[studio-runner] over\n"


def test_json_lines_come_without_secrets(path):
    found: list[bytes] = []
    with opened(path, 0, LineScanner(found.append)) as output:
        output.write(json.dumps({"loss": 1, "key": SECRET}).encode())
    assert [json.loads(line) for line in found] == [{"loss": 1, "key": "*" * len(SECRET)}]


def test_notes_of_the_runner_come_without_secrets(path):
    with opened(path) as output:
        output.note(f"it failed with {SECRET}")
    assert path.read_text() == "[studio-runner] it failed with ***\n"


def test_without_notes_secrets_are_not_stored(path):
    with Output(path, 0, None, Veil(Masker([SECRET]))) as output:
        output.write(f"the key is {SECRET}\n".encode())
        assert output.hidden == ()
    assert path.read_bytes() == b"the key is " + b"*" * len(SECRET) + b"\n"


def test_what_is_read_back_comes_without_secrets(path):
    with opened(path) as output:
        output.write(f"the key is {SECRET}\n".encode())
        assert output.since(20, 100) == b"*" * (len(SECRET) - 9) + b"\n"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    st.lists(st.sampled_from([SECRET, "line\n", "x" * 700, "half a li", "ghp_" + "c" * 36]), max_size=60), st.data()
)
def test_whatever_is_left_out_and_wherever_one_begins_no_secret_is_shown(path, words, data):
    written = " ".join(words).encode()
    with opened(path, LIMIT) as output:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(written)), max_size=8)))
        for start, end in zip([0, *cuts], [*cuts, len(written)], strict=True):
            output.write(written[start:end])
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    whole, rest = seen(path), seen(path, start)
    assert len(whole) == len(content)
    assert whole[start:] == rest
    assert asyncio.run(followed(path, start)) == rest
    for secret in (SECRET, "c" * 36):
        for cut in range(len(secret) - SHOWN):
            assert secret[cut : cut + SHOWN + 1].encode() not in whole
    assert find_gap(whole) == find_gap(content)


async def test_whoever_follows_across_gaps_sees_no_secret(path):
    over, pieces = False, bytearray()

    async def look():
        with opened_places(path.parent.parent) as hidden:
            async for piece in follow(path, lambda: over, 0, hidden):
                pieces.extend(piece)

    async with asyncio.TaskGroup() as group:
        group.create_task(look())
        with opened(path, LIMIT) as output:
            for number in range(400):
                output.write(f"line {number} with {SECRET}\n".encode() * 3)
                if number % 7 == 0:
                    await asyncio.sleep(0.003)
        over = True
    assert b"line 399 with **" in pieces
    assert b"anary" not in pieces


async def test_the_last_of_an_attempt_that_is_gone_comes_without_secrets(path, attempt):
    with opened_places(attempt) as hidden:
        over = False
        with opened(path) as output:
            output.write(b"first\n")
            pieces = follow(path, lambda: over, 0, hidden)
            assert await anext(pieces) == b"first\n"
            output.write(f"last {SECRET}\n".encode())
        path.unlink()
        places_of(attempt).unlink()
        over = True
        assert b"".join([piece async for piece in pieces]) == b"last " + b"*" * len(SECRET) + b"\n"


def test_an_attempt_that_goes_while_one_begins_to_look_is_shown_without_secrets(path, attempt):
    with opened(path) as output:
        output.write(f"the key is {SECRET}\n".encode())
    with opened_places(attempt) as hidden, path.open("rb") as file:
        path.unlink()
        places_of(attempt).unlink()
        found = b"".join(shown(file, 0, 1000, NOBODY, hidden))
    assert found == b"the key is " + b"*" * len(SECRET) + b"\n"


def test_the_tail_of_what_somebody_else_wrote_begins_behind_a_secret(path):
    path.write_bytes(f"key {SECRET} end".encode())
    assert seen(path, 10, masker=Masker([SECRET])) == b"*" * (len(SECRET) - 6) + b" end"


def test_what_was_not_looked_at_is_not_shown(path):
    path.write_bytes(b"0123456789")
    with path.open("rb") as file:
        assert length_shown(file, None) == 10
        assert length_shown(file, 4) == 4
        assert b"".join(shown(file, 0, 4, NOBODY)) == b"0123"


def test_what_waits_for_room_on_the_disk_holds_no_secret(path):
    with opened(path) as output:
        with files_up_to(6):
            output.write(f"the key is {SECRET}\n".encode())
            assert output.error is not None
        output.note("over")
    assert path.read_bytes() == b"the key is " + b"*" * len(SECRET) + b"\n[studio-runner] over\n"
    assert seen(path) == path.read_bytes()


def test_where_places_cannot_be_written_down_secrets_are_not_stored(path):
    with opened(path) as output:
        output.write(f"{SECRET}\n".encode() * MOST)
        output.write(f"more: {SECRET}\n".encode())
    assert path.read_bytes().endswith(b"\nmore: " + b"*" * len(SECRET) + b"\n")
    assert SECRET.encode() in path.read_bytes()


def test_the_places_are_the_runners_alone(path, attempt, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("of the runner")
    places_of(attempt).symlink_to(victim)
    with opened(path) as output:
        output.write(SECRET.encode())
    assert victim.read_text() == "of the runner"
    assert stat.S_IMODE(places_of(attempt).lstat().st_mode) == 0o600
    assert SECRET not in places_of(attempt).read_text()


def test_half_a_line_of_places_spoils_no_other(attempt):
    notes = Notes(places_of(attempt))
    notes.add([(1, 5)], 0)
    with places_of(attempt).open("ab") as file:
        file.write(b"17")
    notes.add([(20, 30)], 100)
    notes.close()
    with opened_places(attempt) as hidden:
        assert list(hidden()) == [(1, 5), (120, 130)]


@given(st.lists(st.tuples(st.integers(0, 9999), st.integers(1, 50)), max_size=80), st.integers(1, 20))
def test_of_many_places_neighbours_become_one(pairs, most):
    places = Cover.of({"until": 1, "ranges": [list(pair) for pair in pairs]}).places
    few = fewer(places, most)
    assert len(few) <= max(most, 0)
    covered = {byte for start, end in few for byte in range(start, end)}
    assert covered >= {byte for start, end in places for byte in range(start, end)}


def test_a_record_tells_of_places():
    cover = Cover(100, [(3, 5), (7, 20)])
    assert Cover.of(json.loads(json.dumps(cover.document()))) == cover


@pytest.mark.parametrize(
    "document",
    [
        None,
        5,
        [],
        {},
        {"until": "x", "ranges": 5},
        {"ranges": [5, [1], [1, 2, 3], ["a", 2], [-1, 5], [True, 1], None]},
    ],
)
def test_what_is_no_record_of_places_tells_nothing(document):
    found = Cover.of(document)
    assert (found.until, list(found.places)) == (None, [])


def test_what_one_knows_oneself_is_hidden_as_well():
    written: list[bytes] = []
    with Veiled(written.append, Masker([SECRET])) as write:
        for piece in (b"plain ", SECRET[:10].encode(), SECRET[10:].encode(), b" and on"):
            write(piece)
        assert written[0] == b"plain "
    assert b"".join(written) == b"plain " + b"*" * len(SECRET) + b" and on"
