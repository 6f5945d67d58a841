"""Names of response queues."""

import pytest

from studio_runner.config.cascade import load
from studio_runner.config.responses import is_response, response_of

NAMES = [
    ("local_a", "local_a_response"),
    ("rmq_a", "rmq_a_response"),
    ("rmq_a@team", "rmq_a_response@team"),
    ("rmq_a@b@team", "rmq_a@b_response@team"),
    ("sqs_a.fifo", "sqs_a_response.fifo"),
    ("local_me@home", "local_me@home_response"),
    ("local_a.fifo", "local_a.fifo_response"),
    ("rmq_responses", "rmq_responses_response"),
]


@pytest.mark.parametrize(("queue", "response"), NAMES)
def test_every_queue_has_one(queue, response):
    assert response_of(queue) == response
    assert not is_response(queue)


@pytest.mark.parametrize("response", [response for _, response in NAMES])
def test_a_response_queue_is_its_own_and_nobody_takes_experiments_from_it(response):
    assert is_response(response)
    assert response_of(response) == response
    assert not load({}).settings.queues.serves(response)
