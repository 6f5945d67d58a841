"""The servers that tests rely on keep what they were given, and the proxy misbehaves as told."""

import contextlib
import socket
import threading
import urllib.error
import urllib.request

import pytest

from servers.proxy import Proxy
from servers.seaweedfs import SeaweedS3


class Echo:
    """Answers each piece with the same; says when its other end closed."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.heard = threading.Semaphore(0)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def close(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def answer(self, connection):
        with connection:
            try:
                while data := connection.recv(1024):
                    self.heard.release()
                    connection.sendall(data)
            except OSError:
                pass


@pytest.fixture
def proxy():
    echo = Echo()
    with Proxy(echo.port) as made:
        made.echo = echo
        yield made
    echo.close()


@pytest.fixture
def connect(proxy):
    opened = []

    def connect():
        opened.append(socket.create_connection(("127.0.0.1", proxy.port), 10))
        return opened[-1]

    yield connect
    for one in opened:
        one.close()


def says(connection, data=b"hello"):
    connection.sendall(data)
    return connection.recv(1024)


def test_a_cut_breaks_connections_and_refuses_new_ones(proxy, connect):
    connection = connect()
    assert says(connection) == b"hello"
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        says(connection)
    with pytest.raises(ConnectionRefusedError):
        connect()
    proxy.restore()
    assert says(connect()) == b"hello"


def test_what_was_dropped_flows_again_afterwards(proxy, connect):
    connection = connect()
    proxy.drop()
    connection.sendall(b"lost")
    connection.settimeout(0.3)
    with pytest.raises(TimeoutError):
        connection.recv(1024)
    assert not proxy.echo.heard.acquire(blocking=False)
    proxy.restore()
    connection.settimeout(10)
    assert connection.recv(1024) == b"lost"


def test_after_a_half_close_the_server_still_hears(proxy, connect):
    connection = connect()
    assert says(connection) == b"hello"
    proxy.echo.heard.acquire()
    proxy.half_close()
    assert connection.recv(1024) == b""
    connection.sendall(b"more")
    assert proxy.echo.heard.acquire(timeout=10)


def test_delayed_data_arrives(proxy, connect):
    proxy.delay(0.1)
    assert says(connect()) == b"hello"


def test_a_proxy_of_nothing_breaks_the_connection(proxy, connect):
    proxy.echo.close()
    with pytest.raises(ConnectionResetError):
        says(connect())


@pytest.mark.parametrize("hard", [False, True])
def test_the_store_keeps_objects_over_a_restart(hard):
    with SeaweedS3() as server:
        server.create_bucket("kept")
        client = server.client()
        client.put_object(Bucket="kept", Key="a/b", Body=b"x" * 100_000)
        server.stop(hard=hard)
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(server.url)
        server.start()
        assert client.get_object(Bucket="kept", Key="a/b")["Body"].read() == b"x" * 100_000
        client.close()


def test_a_vhost_is_empty_and_its_own(rabbitmq, vhost):
    assert rabbitmq.manage("GET", f"/api/queues/{vhost}") == b"[]"
    assert rabbitmq.url(vhost).endswith(f"/{vhost}")


@pytest.mark.slow
@pytest.mark.parametrize("hard", [False, True])
def test_the_broker_keeps_durable_queues_over_a_restart(rabbitmq, vhost, hard):
    rabbitmq.manage("PUT", f"/api/queues/{vhost}/kept", b'{"durable": true}')
    message = (
        b'{"routing_key": "kept", "payload": "m", "payload_encoding": "string", "properties": {"delivery_mode": 2}}'
    )
    assert b"true" in rabbitmq.manage("POST", f"/api/exchanges/{vhost}/amq.default/publish", message)
    rabbitmq.stop(hard=hard)
    rabbitmq.start()
    got = rabbitmq.manage(
        "POST", f"/api/queues/{vhost}/kept/get", b'{"count": 5, "ackmode": "ack_requeue_true", "encoding": "auto"}'
    )
    assert got.count(b'"payload":"m"') == 1


def test_moto_answers(sqs):
    assert urllib.request.urlopen(sqs.url + "/moto-api/").status == 200
