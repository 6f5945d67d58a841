"""What JSON may cost, before anything is made of it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio_runner.errors import InvalidMessageError
from studio_runner.messages import jsontext
from studio_runner.messages.jsontext import TooManyValuesError, loads, read_json, too_many
from studio_runner.messages.naming import name_of
from studio_runner.messages.salvage import salvaged
from studio_runner.queues.reading import is_complete

LIMIT = 64 << 20
CROWDS = [
    pytest.param(b"[" + b"[]," * 1_200_000 + b"[]]", id="arrays"),
    pytest.param(b"[" + b"{}," * 1_200_000 + b"{}]", id="objects"),
    pytest.param(b"[" + b'"a",' * 1_200_000 + b"0]", id="strings"),
    pytest.param(b'{"experiment":{"key":"a"},"x":[' + b'{"":0},' * 600_000 + b"0]}", id="members"),
]
"""A message of 64 MiB may hold twenty times as many: gigabytes, once they are read."""


@pytest.mark.parametrize("body", CROWDS)
def test_a_crowd_of_values_is_refused_before_it_is_made(body):
    with pytest.raises(InvalidMessageError, match="found more than 1000000 values, accepted is at most 1000000"):
        read_json(body, LIMIT)
    with pytest.raises(TooManyValuesError):
        loads(body)


@pytest.mark.parametrize("body", CROWDS)
def test_nobody_else_who_looks_at_a_message_reads_a_crowd(body):
    """It goes to the dead letters, where it has no name, and nothing of it is told to anybody."""
    assert is_complete(body)
    assert name_of(body) == ""
    assert salvaged(body).experiment is None
    assert salvaged(body).config is None


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"a": "' + b"[,:{" * 1_000_000 + b'"}', id="signs in a text"),
        pytest.param(b'{"a": "' + b'\\",' * 2_000_000 + b'"}', id="quotes in a text"),
        pytest.param(b"[" + b"1," * 999_999 + b"1]", id="as many as there may be"),
    ],
)
def test_long_texts_and_large_arrays_are_read(body):
    assert read_json(body, LIMIT) == json.loads(body)


@pytest.mark.parametrize("begin", [b'"', b'"\\', b'"' * 1000, b'\\"', b'"a"'])
def test_what_is_no_json_is_counted_as_well(begin):
    assert too_many(b"," * 1_000_001 + begin * 100_000) is True
    assert too_many(begin * 100_000 + b"," * 1_000_000) is False
    assert too_many(b'"' + b"," * 1_000_001 + b'"' + begin) is False


@settings(max_examples=100)
@given(
    st.recursive(
        st.none() | st.integers() | st.text('ab",:[]{}\\'),
        lambda inner: st.lists(inner) | st.dictionaries(st.text('a",:\\'), inner),
    ),
    st.integers(0, 12),
)
def test_values_are_counted_and_signs_in_texts_are_not(value, most):
    before, jsontext.MOST_VALUES = jsontext.MOST_VALUES, most
    try:
        assert too_many(json.dumps(value).encode()) == (_count(value) > most)
    finally:
        jsontext.MOST_VALUES = before


def _count(value):
    """Members, elements and their containers: what a sign stands before, or is."""
    if isinstance(value, dict):
        return 1 + max(0, len(value) - 1) + len(value) + sum(map(_count, value.values()))
    if isinstance(value, list):
        return 1 + max(0, len(value) - 1) + sum(map(_count, value))
    return 0
