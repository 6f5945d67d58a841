"""What is written into SQS messages, and read from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio_runner.queues.sqs.listing import LONGEST_NAME, dead_name
from studio_runner.queues.sqs.messages import ENCODING, NOTE, REMEMBERED, Message, Note, outgoing


def received(sent, receives=1, **more):
    """As SQS hands a sent message out."""
    found = {
        "MessageId": "m-1",
        "ReceiptHandle": "h-1",
        "Body": sent.text,
        "Attributes": {"ApproximateReceiveCount": str(receives), "SentTimestamp": "1700000000000"},
        "MessageAttributes": dict(sent.attributes),
    }
    return Message.of(found | more)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_come_back_as_they_were(body):
    sent = outgoing(body, "")
    assert sent.text
    assert all(letter in "\t\n\r" or letter >= " " for letter in sent.text)
    assert received(sent).body == body


def test_a_request_goes_as_it_is():
    sent = outgoing(b'{"experiment": {}}', "")
    assert (sent.text, dict(sent.attributes)) == ('{"experiment": {}}', {})


def test_a_body_that_only_looks_encoded_is_left_alone():
    assert received(outgoing(b"base64:AAAA", "")).body == b"base64:AAAA"


@pytest.mark.parametrize("text", ["base64:!", "base64:\N{LATIN SMALL LETTER E WITH ACUTE}", "base64:AAA"])
def test_what_others_marked_as_encoded_and_is_not_is_left_alone(text):
    attributes = {ENCODING: {"DataType": "String", "StringValue": "base64"}}
    assert received(outgoing(text.encode(), ""), MessageAttributes=attributes).body == text.encode()


def test_a_copy_keeps_identity_count_and_the_attributes_of_others():
    others = {"trace": {"DataType": "String", "StringValue": "abc"}}
    first = received(outgoing(b"{}", ""), receives=3, MessageAttributes=others)
    second = received(first.copy(first.kept_note()), MessageId="m-2")
    assert (second.identity, second.attempts, second.redelivered) == ("m-1", 2, True)
    assert dict(second.attributes) == others
    third = received(second.copy(second.kept_note()), receives=2, MessageId="m-3")
    assert (third.identity, third.attempts) == ("m-1", 3)


def test_a_message_that_nobody_started_does_not_pass_for_one():
    first = received(outgoing(b"{}", ""))
    copy = received(first.copy(first.kept_note()), MessageId="m-2")
    assert (copy.attempts, copy.redelivered) == (0, False)


def test_a_message_with_all_attributes_that_sqs_takes_has_no_room_for_ours():
    others = {f"a{number}": {"DataType": "String", "StringValue": "x"} for number in range(10)}
    assert not received(outgoing(b"{}", ""), MessageAttributes=others).can_be_copied


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "3", '{"attempts": "many"}', '{"history": 3}', "[" * 100_000),
        *('{"attempts": 1e999}', '{"attempts": NaN}'),
    ],
)
def test_a_note_that_cannot_be_read_counts_as_none(text):
    assert Note.parse(text) == Note()


@pytest.mark.parametrize("attempts", [-5, 0])
def test_nobody_gets_a_larger_budget_by_a_note(attempts):
    assert Note.parse(f'{{"attempts": {attempts}}}').attempts == 0


def test_a_count_that_cannot_be_written_again_is_as_many_as_matter():
    note = Note.parse(f'{{"attempts": {"9" * 4300}}}')
    assert note.attempts == 1_000_000
    assert Note.parse(note.remembering("once more").text()).attempts == 1_000_000


def test_a_note_survives_being_written():
    note = Note("id", 3, taken=True, history=("a", "b"), origin="sqs_q", group="g", reason="r")
    assert Note.parse(note.text()) == note


def test_history_does_not_grow_for_ever():
    note = Note()
    for number in range(100):
        note = note.remembering(f"{number} " + "x" * 10_000)
    assert len(note.history) == REMEMBERED
    assert note.history[-1].startswith("99 ")
    assert len(note.text()) < 5000
    assert note.remembering("") == note


def test_size_counts_attributes():
    plain = outgoing("ä".encode(), "")
    assert plain.size == 2
    message = received(plain)
    copy = message.copy(Note(identity="x"))
    assert copy.size == 2 + len(NOTE) + len("String") + len(Note(identity="x").text())


@given(st.text(alphabet="abcXYZ019_-", min_size=1, max_size=75), st.sampled_from(["", ".fifo"]))
def test_names_of_dead_queues_are_names_that_sqs_takes(name, ending):
    dead = dead_name(name + ending)
    assert len(dead) <= LONGEST_NAME
    assert dead.replace("-", "").replace("_", "").isalnum()
    assert dead != dead_name(name + "x" + ending)
