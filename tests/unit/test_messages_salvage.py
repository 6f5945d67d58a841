"""Messages that are not valid, and whom to tell."""

import json

import pytest

from studio_runner.errors import InvalidMessageError
from studio_runner.messages.credentials import secrets_of
from studio_runner.messages.request import parse_request
from studio_runner.messages.salvage import salvaged

DATABASE = {"type": "s3", "endpoint": "http://h", "bucket": "meta"}


def body(experiment=None, config=None):
    return json.dumps({"experiment": experiment, "config": config}).encode()


def test_the_experiment_is_there_when_its_key_is():
    assert salvaged(body({"key": "k", "args": 7})).experiment == {"key": "k", "args": 7}


def test_the_valid_parts_of_the_configuration_are_kept():
    config = salvaged(body(config={"database": DATABASE, "runner": 7, "env": {"A": "b"}, "pip": 3})).config
    assert (config.database.bucket, config.runner, config.env) == ("meta", None, {"A": "b"})


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, body(), body([], "x"), body({"key": 7})]
)
def test_where_nothing_can_be_read_there_is_nothing(content):
    assert salvaged(content).experiment is None
    assert salvaged(content).config is None


def test_a_key_is_not_salvaged_from_what_is_nested_too_deep_to_be_written_again():
    deep = b'{"experiment":{"key":"k","x":' + b"[" * 900 + b"]" * 900 + b"}}"
    assert salvaged(deep).experiment is None


CROWDS = {
    "under their names": lambda count: [{"password": f"canary-{number}"} for number in range(count)],
    "in one text": lambda count: " ".join(f"http://u:canary-{number}@host" for number in range(count)),
    "as names": lambda count: "".join(f" //canary-that-is-no-secret-{number}@host" for number in range(count)),
}


@pytest.mark.parametrize("crowd", CROWDS.values(), ids=CROWDS)
def test_a_message_with_more_secrets_than_anybody_can_look_for_is_refused_and_nothing_of_it_is_told(crowd):
    """Looking for those of one message would keep a runner from all others."""
    experiment = {"key": "k", "artifacts": {"_singularity": {"qualified": "docker://busybox"}}}
    refused = body(experiment, {"x": crowd(2001)}).replace(b" //", b" \\u003a\\u002f\\u002f")
    with pytest.raises(InvalidMessageError, match="found more than 2000 secrets, or 100000 addresses"):
        parse_request(refused)
    assert salvaged(refused).experiment is None
    assert salvaged(refused).config is None
    assert salvaged(refused).secrets == frozenset()
    accepted = body(experiment, {"x": crowd(2000)}).replace(b" //", b" \\u003a\\u002f\\u002f")
    assert len(secrets_of(parse_request(accepted))) == 2000


def test_a_message_of_nothing_but_addresses_is_refused():
    """The same one a hundred thousand times over."""
    with pytest.raises(InvalidMessageError, match="or 100000 addresses"):
        parse_request(body({"key": "k"}, {"x": "http://u:canary-1@host " * 100_001}))
