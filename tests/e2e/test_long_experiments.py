"""Experiments that last longer than RabbitMQ lets anybody hold a message."""

import asyncio
import signal

import pytest

from servers.rabbitmq import RabbitMQ
from studio_runner.queues.rabbitmq import RabbitBroker, RabbitOptions
from studio_runner.testing import installation

pytestmark = [pytest.mark.usefixtures("needs_rabbitmq"), pytest.mark.slow]

QUEUE = "rmq_long"
IMPATIENT = {
    "conf": "consumer_timeout = 10000\n",
    "advanced": "[{rabbit, [{channel_tick_interval, 2000}]}].\n",
}
"""A broker that takes back what is not settled after 10 s; by default it looks once a minute only."""

SCRIPT = """
import sys, time
def say(what):
    with open(sys.argv[1], "a") as log:
        log.write(f"{what} {time.time()}\\n")
say("begin")
time.sleep(float(sys.argv[2]))
say("end")
"""
LUCKY_THE_SECOND_TIME = """
import pathlib, sys, time
first = not pathlib.Path(sys.argv[1]).exists()
with open(sys.argv[1], "a") as log:
    log.write("begin\\n")
if first:
    time.sleep(600)
with open(sys.argv[1], "a") as log:
    log.write("end\\n")
"""


@pytest.fixture(scope="module")
def node():
    with RabbitMQ(**IMPATIENT) as started:
        yield started


@pytest.fixture
def place(cache):
    with installation(cache) as made:
        yield made


def publish(node, body):
    async def send():
        async with RabbitBroker(RabbitOptions(node.url(), node.management_url), "client") as broker:
            await broker.publish(QUEUE, body)

    asyncio.run(send())


def queued(node):
    """Messages, claimed ones included, and dead letters."""

    async def count():
        async with RabbitBroker(RabbitOptions(node.url(), node.management_url), "client") as broker:
            status = await broker.status(QUEUE)
            return status.waiting, status.dead

    return asyncio.run(count())


def options(node):
    return "--amqp-url", node.url(), "--amqp-mgt-url", node.management_url


def test_an_experiment_of_a_minute_runs_once_where_messages_may_be_held_for_ten_seconds(place, node, tmp_path):
    log = tmp_path / "log"
    key, body = place.request(place.workspace({"main.py": SCRIPT}), args=[str(log), "60"])
    with place.daemon(*options(node)), place.daemon(*options(node)):
        publish(node, body)
        results = place.wait(key, 240)
    assert results.reason == "completed"
    assert results.attempt == 1
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["begin", "end"]
    assert queued(node) == (0, 0)


@pytest.mark.parametrize("after", [1.0, 12.0], ids=["original-held", "copy-held"])
def test_the_experiment_of_a_runner_that_is_killed_begins_again_elsewhere_within_seconds(
    place, node, tmp_path, until, after
):
    log = tmp_path / "log"
    key, body = place.request(place.workspace({"main.py": LUCKY_THE_SECOND_TIME}), args=[str(log)])
    first = place.start(*options(node))
    publish(node, body)
    until(log.exists)
    with place.daemon(*options(node)):
        with pytest.raises(TimeoutError):
            place.wait(key, after)
        first.send_signal(signal.SIGKILL)
        first.wait()
        results = place.wait(key)
    assert results.reason == "completed"
    assert log.read_text().split() == ["begin", "begin", "end"]
    assert queued(node) == (0, 0)
