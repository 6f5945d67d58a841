import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio_runner.process.lines import EveryLine, LineScanner


def scanned(*pieces: bytes, kind=LineScanner) -> list[bytes]:
    lines: list[bytes] = []
    scanner = kind(lines.append)
    for piece in pieces:
        scanner.feed(piece)
    scanner.finish()
    return lines


def expected(data: bytes) -> list[bytes]:
    return [line for line in data.split(b"\n") if line.lstrip(b" \t")[:1] in (b"{", b"[")]


def test_only_lines_that_open_like_json_are_handed_over():
    assert scanned(b'hello\n{"a": 1}\nx {not}\n  [1]\n\t{"b": 2}\n') == [b'{"a": 1}', b"  [1]", b'\t{"b": 2}']


def test_a_line_in_pieces_is_put_together():
    assert scanned(b"x\n ", b" ", b'{"a', b'": 1}', b"\n") == [b'  {"a": 1}']


def test_the_last_line_needs_no_line_end():
    assert scanned(b'text\n{"a": 1}') == [b'{"a": 1}']


def test_the_middle_of_a_long_text_line_does_not_count_as_a_beginning():
    assert scanned(b"text ", b'{"a": 1}\n', b'{"b": 1}\n') == [b'{"b": 1}']


@pytest.mark.parametrize("piece_size", [1 << 20, 100_000])
def test_a_line_too_long_is_passed_over_and_the_next_one_found(piece_size):
    data = b"[" + b"1," * (1 << 20) + b'1]\n{"a": 1}\n'
    pieces = [data[start : start + piece_size] for start in range(0, len(data), piece_size)]
    assert scanned(*pieces) == [b'{"a": 1}']


@given(st.lists(st.text(alphabet="{[ \n\tx", max_size=12).map(str.encode), max_size=12))
def test_how_the_stream_is_cut_makes_no_difference(pieces):
    assert scanned(*pieces) == expected(b"".join(pieces))


def test_every_line_is_handed_over_when_that_is_wanted():
    assert scanned(b"one\n\ntw", b"o\nthree", kind=EveryLine) == [b"one", b"", b"two", b"three"]


def test_of_a_line_without_end_no_more_is_kept_than_shows_that_it_is_too_long():
    lines = scanned(*[b"x" * 100_000] * 20, b"\nshort\n", kind=EveryLine)
    assert [len(line) for line in lines] == [(1 << 20) + 1, 5]


@given(st.lists(st.text(alphabet="ab\n", max_size=6).map(str.encode), max_size=12))
def test_how_the_stream_is_cut_makes_no_difference_to_every_line(pieces):
    data = b"".join(pieces)
    assert scanned(*pieces, kind=EveryLine) == data.split(b"\n")[: None if data.rpartition(b"\n")[2] else -1]
