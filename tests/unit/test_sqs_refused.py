"""Messages that a runner received and could not start."""

import pytest

from studio_runner.queues.sqs.delivery import Receipt
from studio_runner.queues.sqs.messages import Message
from studio_runner.queues.sqs.refused import MOST, Refused


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def receipt(number, at=0.0):
    found = {"MessageId": f"m-{number}", "ReceiptHandle": "h", "Body": "{}"}
    return Receipt(None, Message.of(found), at)


def test_they_go_back_after_a_while_the_oldest_first(clock):
    refused = Refused(clock, at_most=6.0)
    for number in range(3):
        refused.add(receipt(number, at=float(number)))
    assert refused.until_due() == 6.0
    assert refused.due() == []
    clock.now = 7.0
    assert [one.message.id for one in refused.due()] == ["m-0", "m-1"]
    assert len(refused) == 1
    assert refused.until_due() == 1.0


def test_nobody_hides_very_many(clock):
    refused = Refused(clock, at_most=6.0)
    for number in range(MOST + 5):
        refused.add(receipt(number))
    assert refused.is_full
    assert [one.message.id for one in refused.due()] == [f"m-{number}" for number in range(5)]
    assert len(refused) == MOST
