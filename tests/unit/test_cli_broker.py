"""Which broker a person means."""

import stat
from dataclasses import replace

import pytest

from studio_runner.cli.broker import broker_for, with_brokers
from studio_runner.cli.checkup.brokers import _leases
from studio_runner.cli.checkup.finding import Here, State
from studio_runner.cli.checkup.stores import _clock, _reachable
from studio_runner.cli.front import Front
from studio_runner.cli.session import Session
from studio_runner.config import cascade
from studio_runner.config.studioml import StudioConfig
from studio_runner.errors import UsageError
from studio_runner.queues.local import LocalBroker
from studio_runner.queues.rabbitmq import RabbitBroker
from studio_runner.queues.sqs import SqsBroker


@pytest.fixture
def settings(tmp_path):
    return cascade.load({"HOME": str(tmp_path)}).settings


def with_queues(settings, **changes):
    return replace(settings, queues=replace(settings.queues, **changes))


def test_the_file_names_rabbitmq_unless_the_settings_do(settings):
    config = StudioConfig(cloud_queue={"rmq": "amqp://file/"})
    with with_brokers(settings, config) as found:
        assert found.queues.amqp_url == "amqp://file/"
    with with_brokers(with_queues(settings, amqp_url="amqp://flag/"), config) as found:
        assert found.queues.amqp_url == "amqp://flag/"
    with with_brokers(settings, StudioConfig()) as found:
        assert found.queues.amqp_url == ""


def test_credentials_for_sqs_are_only_for_this_user_and_only_for_the_command(settings):
    aws = {"access_key": "AKIA", "secret_access_key": "hunter2", "region": "eu-west-1"}
    config = StudioConfig(cloud_queue={"sqs": {"credentials": {"aws": aws}}})
    with with_brokers(settings, config) as found:
        directory = found.queues.sqs_certs
        assert found.queues.sqs_region == "eu-west-1"
        assert "aws_secret_access_key = hunter2" in (directory / "credentials").read_text()
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (directory, directory / "credentials")]
        assert modes == [0o700, 0o600]
    assert not directory.exists()
    with with_brokers(with_queues(settings, sqs_region="us-east-1"), config) as found:
        assert (found.queues.sqs_region, found.queues.sqs_certs) == ("us-east-1", None)


def test_the_name_of_a_queue_says_whose_it_is(settings):
    everywhere = with_queues(settings, amqp_url="amqp://h/", sqs_region="eu-west-1")
    assert isinstance(broker_for("rmq_x", everywhere), RabbitBroker)
    assert isinstance(broker_for("sqs_x", everywhere), SqsBroker)
    assert isinstance(broker_for("local_x", everywhere), LocalBroker)
    assert isinstance(broker_for("anything", everywhere), LocalBroker)


@pytest.mark.parametrize(("queue", "words"), [("rmq_x", "RabbitMQ"), ("sqs_x", "SQS")])
def test_a_queue_of_a_broker_that_nobody_named_is_refused(settings, queue, words):
    with pytest.raises(UsageError, match=words) as caught:
        broker_for(queue, settings)
    assert "cloud.queue" in caught.value.hint

    (settings.places.queue_root / queue).mkdir(parents=True)
    assert isinstance(broker_for(queue, settings), LocalBroker), "unless it is a directory"


@pytest.mark.parametrize(
    ("chosen", "configured", "queue"),
    [
        (None, None, "local_default"),
        (None, "local", "local_default"),
        (None, "rmq_team", "rmq_team"),
        (None, "sqs_team", "sqs_team"),
        ("local_x", "rmq_team", "local_x"),
    ],
)
def test_the_queue_is_the_named_one_else_the_configured_one(settings, chosen, configured, queue):
    assert Front(Session({}), settings, StudioConfig(queue=configured)).queue_name(chosen) == queue


@pytest.mark.parametrize("name", ["default", "rmq_a/b", "local_x_response", "pubsub_x"])
def test_what_is_no_name_of_a_queue_is_refused(settings, name):
    with pytest.raises(UsageError, match="is no name"):
        Front(Session({}), settings, StudioConfig()).queue_name(name)


@pytest.mark.parametrize(
    ("declares", "timeout", "state"),
    [(True, None, State.OK), (True, 600.0, State.OK), (True, 6.0, State.PROBLEM), (False, 600.0, State.WARNING)],
)
def test_leases_and_consumer_timeout_must_get_on(settings, declares, timeout, state):
    finding = _leases(Here(settings, {}), declares=declares, timeout=timeout)
    assert finding.state is state
    assert bool(finding.mend) == (state is not State.OK)


@pytest.mark.parametrize(
    ("written", "state", "words"),
    [(100.0, State.OK, "ours"), (99.0, State.OK, "ours"), (160.0, State.WARNING, "ahead of"), (40.0, State.WARNING, "behind")],
)  # fmt: skip
def test_a_store_whose_clock_differs_is_named(written, state, words):
    finding = _clock("storage", written, 99.8, 100.2)
    assert finding.state is state
    assert words in finding.sentence


def test_who_cannot_be_told_is_named_without_the_path_that_is_a_secret():
    finding = _reachable("Slack", "http://127.0.0.1:1/services/hunter2")
    assert finding.state is State.WARNING
    assert "127.0.0.1:1" in finding.sentence
    assert "hunter2" not in str(finding)
