"""Why there is no connection to RabbitMQ, in words."""

import socket

import pytest

from studio_runner.queues.rabbitmq.options import Address
from studio_runner.queues.rabbitmq.trouble import connection_error

HERE = Address.parse("amqp://someone:secret@broker.example:5672/v")


def test_an_error_that_came_of_itself_is_told_all_the_same():
    error, inner = RuntimeError("connection lost"), ConnectionResetError(104, "Connection reset by peer")
    error.__cause__, inner.__cause__ = inner, error
    said = connection_error(HERE, error)
    assert "ended the connection: connection lost" in str(said)
    assert "reset by peer" in str(said)


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "no address for host broker.example"),
        (ConnectionRefusedError(111, "Connection refused"), "refuses connections"),
        (TimeoutError(), "does not answer"),
    ],
)
def test_what_an_error_came_of_is_what_is_told(inner, words):
    error = RuntimeError("connect")
    error.__context__ = inner
    said = connection_error(HERE, error)
    assert words in str(said)
    assert "secret" not in str(said)
    assert said.hint
