"""Where the HTTP side listens: the address is checked and taken before anything else starts."""

import errno
import ipaddress
import os
import socket
from dataclasses import dataclass

from studio_runner.config.settings import HttpSettings
from studio_runner.errors import ConfigError

_ADVICE = "Name another one with --http-address; port 0 takes any that is free, an empty address none."


STALLED = 30.0
"""Seconds after which the kernel drops a client that takes nothing of what it is sent."""


class AddressInUseError(ConfigError):
    """Somebody else listens on the address."""


@dataclass(frozen=True)
class Listening:
    """A socket that connections queue up at already. `names` are the hosts that requests may name, None for any;
    `remote`: other machines can reach it."""

    sock: socket.socket
    url: str
    remote: bool
    names: frozenset[str] | None


def listen(http: HttpSettings) -> Listening:
    """Take the address; ConfigError when it must not or cannot be had, AddressInUseError when somebody has it."""
    name, port = _split(http.address)
    family, place = _resolve(name, port)
    remote = not ipaddress.ip_address(place[0]).is_loopback
    if remote and not http.token and not http.allow_remote:
        raise ConfigError(
            f"The HTTP address {http.address} can be reached from other machines, and there is no token",
            hint="Set http.token (STUDIO_RUNNER_HTTP_TOKEN), or allow it with --http-allow-remote, or listen on "
            "127.0.0.1.",
        )
    if http.private and not http.token:
        raise ConfigError(
            "The HTTP side is to be private, and there is no token that would open it",
            hint="Set http.token (STUDIO_RUNNER_HTTP_TOKEN), or leave out --http-private.",
        )
    sock = _bound(family, place, http.address)
    shown = f"[{place[0]}]" if family == socket.AF_INET6 else place[0]
    url = f"http://{shown}:{sock.getsockname()[1]}/"
    names = None if remote else frozenset({"localhost", "127.0.0.1", "[::1]", shown, name.lower()})
    return Listening(sock, url, remote, names)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _resolve(name: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(
            f"The host {name!r} of the HTTP address is unknown: {error.strerror}", hint=_ADVICE
        ) from error
    family, _, _, _, place = found[0]
    return family, (str(place[0]), int(place[1]))


def _bound(family: socket.AddressFamily, place: tuple[str, int], address: str) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; its connections inherit it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * STALLED))
        sock.bind(place)
        sock.listen(128)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            taken = f"The HTTP address {address} is in use by another process"
            raise AddressInUseError(taken, hint=_ADVICE) from error
        why = os.strerror(error.errno or 0)
        raise ConfigError(f"The runner cannot listen on the HTTP address {address}: {why}", hint=_ADVICE) from error
    return sock
