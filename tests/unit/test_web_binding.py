import socket

import pytest

from studio_runner.config.settings import HttpSettings
from studio_runner.errors import ConfigError
from studio_runner.web.binding import AddressInUseError, listen


@pytest.fixture
def listening():
    """Listens, and stops at the end of the test."""
    taken = []

    def start(address, token="", *, allow_remote=False):
        taken.append(listen(HttpSettings(address, token, allow_remote)))
        return taken[-1]

    yield start
    for one in taken:
        one.sock.close()


def test_a_free_port_is_found(listening):
    found = listening("127.0.0.1:0")
    port = found.sock.getsockname()[1]
    assert found.url == f"http://127.0.0.1:{port}/"
    assert not found.remote
    socket.create_connection(("127.0.0.1", port)).close()


@pytest.mark.parametrize("address", ["localhost:0", "127.0.0.2:0"])
def test_every_name_of_this_machine_alone_is_local(listening, address):
    found = listening(address)
    assert not found.remote
    assert found.names >= {"localhost", "127.0.0.1", "[::1]", address.partition(":")[0]}


def test_the_network_needs_a_token_or_permission(listening):
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0:0 can be reached") as caught:
        listening("0.0.0.0:0")
    assert "http.token" in caught.value.hint
    for found in (listening("0.0.0.0:0", "token"), listening("0.0.0.0:0", allow_remote=True)):
        assert found.remote
        assert found.names is None


def test_an_address_in_use_is_told_apart(listening):
    address = "127.0.0.1:{}".format(listening("127.0.0.1:0").sock.getsockname()[1])
    with pytest.raises(AddressInUseError, match=f"{address} is in use") as caught:
        listening(address)
    assert "--http-address" in caught.value.hint


@pytest.mark.parametrize("address", ["192.0.2.1:9090", "no such host:9090"])
def test_an_address_that_is_not_here_is_said_so(listening, address):
    with pytest.raises(ConfigError) as caught:
        listening(address, "token")
    assert not isinstance(caught.value, AddressInUseError)
    assert address.rpartition(":")[0] in str(caught.value)


def test_to_be_private_it_needs_a_token():
    with pytest.raises(ConfigError, match="no token that would open it"):
        listen(HttpSettings("127.0.0.1:0", "", allow_remote=False, private=True))
