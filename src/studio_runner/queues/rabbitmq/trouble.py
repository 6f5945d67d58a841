"""What can go wrong with RabbitMQ, in words for people."""

import socket
import ssl
from collections.abc import Iterator

from studio_runner.errors import BrokerError
from studio_runner.queues.rabbitmq.options import Address


class LinkLostError(BrokerError):
    """Connection or channel are gone, or were not to be had; it may pass."""


class MissingError(BrokerError):
    """No such queue or exchange."""


class ForbiddenError(BrokerError):
    """The user may not do this."""


class MismatchError(BrokerError):
    """The queue or exchange is there with other properties, in use, or somebody else's alone."""


class UnroutableError(BrokerError):
    """A message was taken by no queue."""


class FullError(BrokerError):
    """The queue does not take a message."""


class BlockedError(BrokerError):
    """The broker takes nothing new, for want of memory or disk."""


def connection_error(address: Address, error: BaseException) -> BrokerError:
    """Why there is no connection."""
    what, hint = _explained(address, error)
    return LinkLostError(f"RabbitMQ at {address} {what}", hint=hint)


def _explained(address: Address, error: BaseException) -> tuple[str, str]:
    causes = list(_causes(error))
    for cause in causes:
        match cause:
            case socket.gaierror():
                return f"cannot be found: no address for host {address.host}", "check the name, or the name service"
            case ssl.SSLCertVerificationError():
                return (
                    f"shows a certificate that is not trusted: {cause.verify_message}",
                    "give its authority with --amqp-ca",
                )
            case ssl.SSLError():
                return (
                    f"cannot be spoken to by TLS: {cause.reason or cause}",
                    "check that the port is the one for amqps, and --amqp-cert and --amqp-key",
                )
            case ConnectionRefusedError() if type(cause).__module__ == "builtins":
                return "refuses connections", "check that it runs and that host and port are right"
            case TimeoutError():
                return "does not answer", "check host and port, and firewalls between"
    return _refused(address, " ".join(str(cause) for cause in causes), type(error).__name__)


def _refused(address: Address, words: str, kind: str) -> tuple[str, str]:
    """By what the broker says before it closes the connection."""
    if "ACCESS_REFUSED" in words or kind == "ProbableAuthenticationError":
        return (
            f"does not accept user {address.user} with this password for its queues",
            "check the credentials in --amqp-url",
        )
    if "vhost" in words and "not found" in words:
        return f"has no virtual host {address.vhost}", "check the path of --amqp-url, or create the virtual host"
    if "vhost" in words and "refused" in words:
        return (
            f"does not let user {address.user} into virtual host {address.vhost}",
            "give the user permissions there (rabbitmqctl set_permissions)",
        )
    return f"ended the connection: {words or kind}", "its log may say why"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came of, each once: the client library raises errors that are their own cause."""
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__
