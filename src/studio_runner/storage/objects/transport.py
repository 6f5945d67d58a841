"""What can go wrong between here and a server, in words: what may pass is PassingError, what will not is final."""

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp

from studio_runner.errors import ArtifactInvalidError, StorageUnavailableError
from studio_runner.storage.objects.retry import PassingError

_NO_SUCH_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


class OffLimitsError(OSError):
    """No connection is made to this address."""


@contextmanager
def transport_faults(endpoint: str) -> Iterator[None]:
    """Turn what requests to `endpoint` meet on their way into PassingError, or StorageUnavailableError or
    ArtifactInvalidError."""
    try:
        yield
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
        raise ArtifactInvalidError(f"{endpoint} is no address of a web server") from error
    except TimeoutError as error:
        raise PassingError(f"{endpoint} does not answer in time") from error
    except (aiohttp.ClientError, OSError) as error:
        raise (_off_limits(error, endpoint) or _final(error, endpoint) or _passing(error, endpoint)) from error
    except ValueError as error:  # of a name that is none, or of a header with a line break in it
        raise ArtifactInvalidError(
            f"{endpoint} cannot be asked: {error}", hint="correct the address, or the credentials that belong to it"
        ) from error


def _off_limits(error: Exception, endpoint: str) -> ArtifactInvalidError | None:
    reason = getattr(error, "os_error", None)
    if not isinstance(reason, OffLimitsError):
        return None
    return ArtifactInvalidError(f"{endpoint}: {reason}", hint="correct the address of the artifact or of its store")


def _final(error: Exception, endpoint: str) -> StorageUnavailableError | None:
    """What will not go away by itself."""
    match error:
        case aiohttp.ClientConnectorDNSError() if error.os_error.errno in _NO_SUCH_HOST:
            return StorageUnavailableError(
                f"{endpoint}: no address is known for the host {error.host} ({_reason(error)})",
                hint="correct the name, or this machine's DNS",
            )
        case aiohttp.ClientConnectorCertificateError():
            return StorageUnavailableError(
                f"{endpoint}: its certificate is not to be trusted: {_reason(error.certificate_error)}",
                hint="give the authority that signed it as s3-ca",
            )
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return StorageUnavailableError(
                f"{endpoint}: no TLS connection: {_reason(error)}",
                hint="if the server speaks plain HTTP, say so in its endpoint; if it asks for a certificate, "
                "give s3-cert and s3-key",
            )
        case aiohttp.TooManyRedirects():
            return StorageUnavailableError(f"{endpoint}: redirects without end")
        case aiohttp.ClientResponseError() if not isinstance(error, aiohttp.ClientHttpProxyError):
            return StorageUnavailableError(
                f"{endpoint}: what answers there does not speak HTTP: {_first_line(error.message)}",
                hint="if the server speaks TLS, give its endpoint as https://",
            )
        case _:
            return None


def _passing(error: Exception, endpoint: str) -> PassingError:
    match error:
        case aiohttp.ClientPayloadError():
            return PassingError(f"{endpoint}: the answer broke off before its end")
        case aiohttp.ServerDisconnectedError():
            return PassingError(f"{endpoint} closed the connection")
        case aiohttp.ClientHttpProxyError():
            return PassingError(f"{endpoint}: the proxy before it refuses ({error.status})")
        case aiohttp.ClientProxyConnectionError():
            return PassingError(f"{endpoint}: the proxy before it does not answer ({_reason(error)})")
        case _:
            return PassingError(f"{endpoint}: {_reason(error)}")


def _reason(error: BaseException) -> str:
    """The operating system's words where there are some: the library's repeat the address."""
    inner = getattr(error, "os_error", None) or error
    if isinstance(inner, ssl.SSLCertVerificationError):
        return inner.verify_message
    if isinstance(inner, ConnectionError) and inner.errno:
        return os.strerror(inner.errno)
    text = getattr(inner, "strerror", None) or getattr(inner, "reason", None) or str(inner)
    return str(text) or type(inner).__name__


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:100]
