"""RabbitMQ by amqps, which shows its certificate and asks for ours."""

import asyncio
import json

import pytest

from servers.process import free_ports
from servers.rabbitmq import RabbitMQ
from studio_runner.errors import BrokerError
from studio_runner.queues.rabbitmq import RabbitBroker, RabbitOptions, Tls

QUEUE = "rmq_sealed"
BODY = json.dumps({"experiment": {"key": "sealed"}}).encode()


@pytest.fixture(scope="module")
def guarded(needs_rabbitmq, certificates):
    """The URL of a node that speaks to holders of a certificate only, and its management API."""
    (port,) = free_ports(1)
    conf = (
        f"listeners.ssl.1 = 127.0.0.1:{port}\n"
        f"ssl_options.cacertfile = {certificates}/ca.pem\n"
        f"ssl_options.certfile = {certificates}/server.pem\n"
        f"ssl_options.keyfile = {certificates}/server.key\n"
        "ssl_options.verify = verify_peer\n"
        "ssl_options.fail_if_no_peer_cert = true\n"
    )
    with RabbitMQ(conf=conf) as node:
        yield f"amqps://guest:guest@127.0.0.1:{port}/%2F", node.management_url


def options(guarded, **tls):
    url, management = guarded
    return RabbitOptions(url, management, tls=Tls(**tls), lease=3.0, poll=0.2)


class Gate:
    releases = 0

    def admit(self, queue, body):
        return self

    def release(self):
        pass

    def awaits(self, queue, body):
        return False

    async def opened(self):
        pass

    async def released(self, seen):
        await asyncio.Event().wait()


async def test_a_message_goes_both_ways_with_both_certificates(guarded, certificates):
    own = {
        name: certificates / file
        for name, file in {"ca": "ca.pem", "cert": "client.pem", "key": "client.key"}.items()
    }
    async with RabbitBroker(options(guarded, **own)) as broker, asyncio.timeout(60):
        await broker.publish(QUEUE, BODY)
        assert QUEUE in await broker.queues()
        deliveries = broker.consume(QUEUE, Gate())
        delivery = await anext(deliveries)
        assert delivery.body == BODY
        await delivery.ack()
        await deliveries.aclose()


async def test_without_a_certificate_of_ours_the_broker_does_not_speak_to_us(guarded, certificates):
    async with RabbitBroker(options(guarded, ca=certificates / "ca.pem")) as broker, asyncio.timeout(60):
        with pytest.raises(BrokerError, match=r"amqps://guest@127\.0\.0\.1") as caught:
            await broker.queues()
    assert "guest:guest" not in f"{caught.value} {caught.value.hint}"


async def test_a_broker_that_nobody_vouches_for_is_not_spoken_to(guarded):
    async with RabbitBroker(options(guarded)) as broker, asyncio.timeout(60):
        with pytest.raises(BrokerError, match="certificate") as caught:
            await broker.queues()
    assert "amqp-ca" in f"{caught.value} {caught.value.hint}"
