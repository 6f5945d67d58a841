"""Names of queues, and where a broker is."""

import pytest

from studio_runner.errors import ConfigError
from studio_runner.queues.rabbitmq.naming import DELAYS, LONGEST, QueueName, is_hold, round_delay
from studio_runner.queues.rabbitmq.options import Address, RabbitOptions, Tls


@pytest.mark.parametrize(
    ("text", "vhost", "name"),
    [("rmq_x", "home", "rmq_x"), ("rmq_x@away", "away", "rmq_x"), ("rmq_x@/", "/", "rmq_x"), ("a@b@c", "c", "a@b")],
)
def test_a_name_tells_the_virtual_host(text, vhost, name):
    found = QueueName.parse(text, "home")
    assert found == QueueName(vhost, name)
    assert found.shown("home") == text


def test_what_is_shown_leads_to_the_same_queue():
    for queue in (QueueName("home", "odd@name"), QueueName("away", "a@b"), QueueName("home", "@x")):
        assert QueueName.parse(queue.shown("home"), "home") == queue


def test_queues_of_runners_are_not_taken_for_request_queues():
    queue = QueueName("/", "rmq_x")
    for name in (queue.dead, queue.held_by("me"), queue.delayed(5)):
        assert not name.startswith(("rmq_", "sqs_", "local_"))
    assert is_hold(queue.held_by("me"))
    assert not is_hold(queue.dead)


def test_long_names_are_shortened_and_stay_apart():
    queues = [QueueName("/", "rmq_" + "ä" * 124 + end) for end in "ab"]
    names = {queue.held_by(owner) for queue in queues for owner in ("one", "other")}
    assert len(names) == 4
    assert all(len(name.encode()) <= LONGEST for name in names)


@pytest.mark.parametrize(("delay", "rounded"), [(0.1, 1), (1, 1), (1.1, 2), (5, 5), (600, 600), (1e9, DELAYS[-1])])
def test_delays_are_rounded_up(delay, rounded):
    assert round_delay(delay) == rounded


def test_an_address_without_anything_is_the_usual_one():
    address = Address.parse("amqp://somewhere")
    assert (address.host, address.port, address.user, address.vhost) == ("somewhere", 5672, "guest", "/")
    assert address.management == "http://somewhere:15672"


@pytest.mark.parametrize(
    ("path", "vhost"), [("", "/"), ("/", "/"), ("/%2f", "/"), ("/%2F", "/"), ("/a%2fb", "a/b")]
)
def test_the_path_is_the_virtual_host(path, vhost):
    assert Address.parse(f"amqp://h{path}?connection_attempts=50&retry_delay=.5").vhost == vhost


def test_credentials_may_hold_anything_and_are_not_shown():
    address = Address.parse("amqps://us%40er:se%2Fcr%3Aet@h:1234/v")
    assert (address.user, address.password, address.port) == ("us@er", "se/cr:et", 1234)
    assert "cr" not in f"{address} {address!r}".replace("secret", "")


def test_options_do_not_show_the_password():
    assert "hush" not in repr(RabbitOptions("amqp://u:hush@h", "http://u:hush@h"))


@pytest.mark.parametrize("url", ["", "h:5672", "http://h", "amqp://", "amqp://u:hush@h:port"])
def test_what_is_no_address_is_refused_without_its_password(url):
    with pytest.raises(ConfigError) as refusal:
        Address.parse(url)
    assert "hush" not in str(refusal.value)


def test_an_unusable_certificate_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.pem"):
        Tls(ca=tmp_path / "missing.pem").context()
