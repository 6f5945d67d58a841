"""Which broker has which queue."""

from dataclasses import replace

import pytest

from studio_runner.config import cascade
from studio_runner.queues.local import LocalBroker
from studio_runner.queues.rabbitmq import RabbitBroker
from studio_runner.queues.registry import broker_of, kind_of, kinds_of, opened_brokers
from studio_runner.queues.sqs import SqsBroker

PLAIN = cascade.load({"HOME": "/nowhere"}).settings.queues
RABBIT = replace(PLAIN, amqp_url="amqp://guest:guest@127.0.0.1:1/")
ALL = replace(RABBIT, sqs_region="eu-west-1")


def test_directories_are_always_served():
    assert kinds_of(PLAIN) == ["local"]
    assert kinds_of(ALL) == ["local", "rmq", "sqs"]


@pytest.mark.parametrize(
    ("queue", "settings", "kind"),
    [
        ("local_a", ALL, "local"),
        ("rmq_a", ALL, "rmq"),
        ("rmq_a@other", ALL, "rmq"),
        ("sqs_a", ALL, "sqs"),
        ("sqs_a", RABBIT, "local"),
        ("rmq_a", PLAIN, "local"),
        ("anything", ALL, "local"),
    ],
)
def test_a_name_says_whose_the_queue_is_where_there_is_such_a_broker(queue, settings, kind):
    assert kind_of(queue, settings) == kind


def test_each_kind_has_its_broker(tmp_path):
    assert isinstance(broker_of("local_a", ALL, tmp_path), LocalBroker)
    assert isinstance(broker_of("rmq_a", ALL, tmp_path), RabbitBroker)
    assert isinstance(broker_of("sqs_a", ALL, tmp_path), SqsBroker)


async def test_all_brokers_open_though_none_answers(tmp_path):
    async with opened_brokers(ALL, tmp_path, "runner") as brokers:
        assert [type(broker) for broker in brokers] == [LocalBroker, RabbitBroker, SqsBroker]
