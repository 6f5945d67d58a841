"""Where RabbitMQ is, as whom, and the durations that matter there."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from studio_runner.config.settings import QueueSettings
from studio_runner.errors import ConfigError

PORTS = {"amqp": 5672, "amqps": 5671}
MANAGEMENT_OFFSET = 10_000
"""From the AMQP port to the one of the management API, where nothing else is said."""


@dataclass(frozen=True)
class Tls:
    """PEM files: an authority besides those that the machine trusts, and what to show of oneself."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """ConfigError when a file cannot be used."""
        try:
            context = ssl.create_default_context()
            if self.ca:
                context.load_verify_locations(self.ca)
            if self.cert:
                context.load_cert_chain(self.cert, self.key)
        except OSError as error:
            files = ", ".join(str(file) for file in (self.ca, self.cert, self.key) if file)
            raise ConfigError(
                f"the certificates for RabbitMQ cannot be used ({files}): {error}",
                hint="they are PEM files; see --amqp-ca, --amqp-cert and --amqp-key",
            ) from error
        return context


@dataclass(frozen=True)
class Address:
    """A broker and a virtual host of it. Its text is for people: user and place, never the password."""

    scheme: str
    host: str
    port: int
    user: str
    password: str = field(repr=False)
    vhost: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """ConfigError when it is no AMQP URL. Parameters after `?`, which other clients know, are left out."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise _unusable(error) from error
        if parts.scheme not in PORTS or not parts.hostname:
            raise _unusable("it has no scheme or no host")
        return cls(
            scheme=parts.scheme,
            host=parts.hostname,
            port=port or PORTS[parts.scheme],
            user=unquote(parts.username or "guest"),
            password=unquote(parts.password or "guest"),
            vhost=unquote(parts.path[1:]) or "/",
        )

    def __str__(self) -> str:
        return f"{self.scheme}://{self.user}@{self.host}:{self.port} (virtual host {self.vhost})"

    @property
    def management(self) -> str:
        """URL of the management API where it usually is."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "https" if self.scheme == "amqps" else "http"
        return f"{scheme}://{host}:{self.port + MANAGEMENT_OFFSET}"


def _unusable(why: object) -> ConfigError:
    # The URL holds a password: it is not repeated.
    return ConfigError(
        f"the RabbitMQ URL cannot be used: {why}",
        hint="write amqp://USER:PASSWORD@HOST[:PORT]/[VHOST] or amqps://..., with special characters as %XX",
    )


@dataclass(frozen=True)
class RabbitOptions:
    """Durations in seconds. All runners of one broker should use the same lease."""

    url: str = field(repr=False)
    management_url: str = field(default="", repr=False)
    """Empty: the port of `url` + 10000."""
    queues: tuple[str, ...] = ()
    """Served without asking the management API."""
    tls: Tls = Tls()
    lease: float = 15.0
    cool_down: float = 10.0
    """From a queue's deletion to the stop of its experiments."""
    poll: float = 2.0
    """Between two looks at the list of queues, and at messages that did not fit."""

    @classmethod
    def of(cls, settings: QueueSettings) -> Self:
        return cls(
            url=settings.amqp_url,
            management_url=settings.amqp_management_url,
            queues=settings.amqp_queues,
            tls=Tls(settings.amqp_ca, settings.amqp_cert, settings.amqp_key),
            lease=settings.lease,
            cool_down=settings.cool_down,
        )

    @property
    def time_to_live(self) -> float:
        """How long a held copy stays with a runner that is gone."""
        return self.lease * 2 / 3
