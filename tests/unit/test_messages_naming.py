"""What messages are called while they lie on a queue."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as some

from studio_runner.messages.envelope import envelope_in
from studio_runner.messages.naming import is_called, name_if_sealed, name_of

SEALED = json.dumps({"message": {"payload": "a2V5,ZGF0YQ==", "signature": "x"}}).encode()


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"experiment": {"key": "k"}}', "k"),
        (b'{"experiment": {"key": "k"}, "message": {"payload": "p"}}', "k"),
        (b'{"experiment": {"key": "\\u00fc"}}', "ü"),
        ('{"experiment": {"key": "ü"}}'.encode(), "ü"),
        (b'{"experiment": {"key": 1}}', ""),
        (b'{"experiment": []}', ""),
        (b'{"message": {"payload": 3}}', ""),
        (b"[]", ""),
        (b"\xff", ""),
        (b"[" * 100_000, ""),
    ],
)
def test_it_is_the_experiments_key_or_nothing(body, name):
    assert name_of(body) == name
    assert is_called(body, name) == bool(name)


def test_a_sealed_message_has_the_name_that_runners_give_it():
    name = name_of(SEALED)

    assert name == envelope_in(json.loads(SEALED)).name
    assert name.startswith("(sealed ")
    assert is_called(SEALED, name)
    assert name_if_sealed(SEALED) == name
    assert name_if_sealed(b'{"experiment": {"key": "k"}}') == ""
    assert not is_called(SEALED.replace(b"a2V5", b"a2V6"), name)


@given(some.binary() | some.text().map(lambda payload: json.dumps({"message": {"payload": payload}}).encode()))
def test_looking_for_a_name_fails_at_nothing(body):
    name_of(body)
    assert not is_called(body, "no such name")
