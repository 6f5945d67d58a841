import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio_runner.errors import BrokerError
from studio_runner.queues.layout import ClaimName, DelayedName, MessageName, RootPlace, is_message_name

FILE_NAMES = (
    st.binary(min_size=1, max_size=255).filter(lambda raw: b"/" not in raw and b"\0" not in raw).map(os.fsdecode)
)


@given(FILE_NAMES)
def test_whatever_a_message_is_called_the_names_made_from_it_are_read_back(name):
    message = MessageName.parse(name)
    assert MessageName.parse(message.file_name) == message
    assert ClaimName.parse(ClaimName("host.1", 7, message).file_name) == ("host.1", 7, message)
    assert DelayedName.parse(DelayedName(1_700_000_000_000, message).file_name) == (1_700_000_000_000, message)


@given(FILE_NAMES)
def test_names_made_from_a_message_are_no_longer_than_a_file_name_can_be(name):
    message = MessageName.parse(name)._replace(attempts=999_999)
    for made in (message.file_name + ".reason.json", ClaimName("h" * 69, 10**9, message).file_name):
        assert len(os.fsencode(made)) <= 255


@given(FILE_NAMES)
def test_every_delivery_counts_one(name):
    message = MessageName.parse(name)
    assert MessageName.parse(message.charged.file_name) == (message.base, message.attempts + 1)


def test_long_names_stay_apart():
    names = {MessageName.parse("x" * 200 + str(number)).base for number in range(100)}
    assert len(names) == 100


@pytest.mark.parametrize("name", ["a~3", "a~tried", "a~tried0", "a~triedx", "~tried3", "a~tried03", "a.~1~"])
def test_a_name_that_only_resembles_ours_counts_no_deliveries(name):
    assert MessageName.parse(name) == (name, 0)


def test_our_suffix_is_read():
    assert MessageName.parse("5b3f~tried2") == ("5b3f", 2)
    assert MessageName.parse("a~tried1~tried2") == ("a~tried1", 2)


@pytest.mark.parametrize("name", ["notes.txt", "a~b~c~d", "a~1~2", "a~1~2~", "~~~"])
def test_strange_files_among_claims_are_none(name):
    assert ClaimName.parse(name) is None


@pytest.mark.parametrize("name", ["notes.txt", "x~1~a", "1~x~a", "1~2~", "1"])
def test_strange_files_among_delayed_messages_are_none(name):
    assert DelayedName.parse(name) is None


@pytest.mark.parametrize("name", ["lock.lock", ".hidden", ".nfs0001", "lock.lock.break.12.abc", ".lock.lock.swp"])
def test_what_is_never_a_message(name):
    assert not is_message_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", ".studio-runner", "a/b", "../x", "a\0b"])
def test_a_queue_cannot_be_called_that(tmp_path, name):
    with pytest.raises(BrokerError, match="cannot be the name of a queue") as caught:
        RootPlace(tmp_path).queue(name)
    assert caught.value.hint
