"""Asks a registry which version a reference means now: one or two small requests, long before anything is pulled.

It answers as well, in words that can be relied upon, whether there is such an image and whether it may be had.
"""

import asyncio
import contextlib
import hashlib
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from threading import Thread
from typing import NoReturn
from urllib.parse import urlencode, urlsplit

from studio_runner.environments.images.logins import Login
from studio_runner.environments.images.reference import DOCKER_HUB, Reference
from studio_runner.errors import EnvironmentFailedError, EnvironmentUnavailableError, UnauthorisedError
from studio_runner.messages.jsontext import loads

SILENCE = 10.0
"""Seconds without an answer after which a registry counts as down."""

PATIENCE = 60.0
"""Seconds for everything that is asked about one reference."""

_LONGEST = 4 << 20
_ACCEPTED = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Inquiry:
    """One question about one reference; blocking. `scheme` is https or http."""

    def __init__(self, reference: Reference, login: Login | None, scheme: str) -> None:
        self._reference = reference
        self._login = login
        self._scheme = scheme
        host = "registry-1.docker.io" if reference.registry == DOCKER_HUB else reference.registry
        self._base = f"{scheme}://{host}/v2/{reference.repository}/manifests/"

    @property
    def about(self) -> str:
        """Who is asked."""
        return f"The registry of {self._reference.address}"

    def version(self) -> str:
        """The digest of what the reference means now.

        UnauthorisedError, EnvironmentFailedError (there is no such image), EnvironmentUnavailableError (no answer).
        """
        address = self._base + (self._reference.digest or self._reference.tag)
        answer = self._ask(address, "HEAD")
        digest = answer.headers.get("docker-content-digest", "")
        if not _DIGEST.fullmatch(digest):
            digest = f"sha256:{hashlib.sha256(self._ask(address, 'GET').body).hexdigest()}"
        return digest

    def _ask(self, address: str, method: str) -> _Answer:
        answer = self._request(address, method, None)
        if answer.status == http.HTTPStatus.UNAUTHORIZED:
            answer = self._request(address, method, self._permission(answer.headers.get("www-authenticate", "")))
        if answer.status != http.HTTPStatus.OK:
            self._refuse(answer.status)
        return answer

    def _permission(self, challenge: str) -> str:
        """What to show, as the registry's own challenge wants it."""
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic" and self._login:
            return f"Basic {self._login.basic}"
        parameters = dict(_PARAMETER.findall(rest))
        # A login for a registry with TLS is shown to no service without.
        schemes = ("https://",) if self._scheme == "https" else ("https://", "http://")
        if kind.lower() != "bearer" or not parameters.get("realm", "").startswith(schemes):
            self._refuse(http.HTTPStatus.UNAUTHORIZED)
        wanted = {
            "service": parameters.get("service", ""),
            "scope": f"repository:{self._reference.repository}:pull",
        }
        shown = f"Basic {self._login.basic}" if self._login else None
        answer = self._request(f"{parameters['realm']}?{urlencode(wanted)}", "GET", shown)
        if answer.status != http.HTTPStatus.OK:
            self._refuse(answer.status)
        return f"Bearer {_token(answer.body)}"

    def _request(self, address: str, method: str, permission: str | None) -> _Answer:
        request = urllib.request.Request(address, method=method, headers={"Accept": ", ".join(_ACCEPTED)})  # noqa: S310
        if permission:
            request.add_unredirected_header("Authorization", permission)
        try:
            with urllib.request.urlopen(request, timeout=SILENCE) as response:  # noqa: S310 - http and https only
                return _Answer(response.status, _lower(response.headers), response.read(_LONGEST))
        except urllib.error.HTTPError as error:
            with error:
                return _Answer(error.code, _lower(error.headers), b"")
        except (OSError, http.client.HTTPException) as error:
            host = urlsplit(address).netloc
            raise EnvironmentUnavailableError(
                f"The registry {host} does not answer: {_reason(error)}",
                hint="See whether this machine reaches it; --plain-http-registries is for those without TLS.",
            ) from error

    def _refuse(self, status: int) -> NoReturn:
        what = self._reference.address
        if status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
            whom = f"the login of {self._login.user}" if self._login else "requests without a login"
            raise UnauthorisedError(
                f"The registry refuses {whom} for the image {what} ({status})",
                hint="Give the artifact _singularity credentials, or the runner logins (--registry-auth).",
            )
        if status == http.HTTPStatus.NOT_FOUND:
            raise EnvironmentFailedError(f"There is no image {what}", hint="Look at its name and its tag.")
        if status in (http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.TOO_MANY_REQUESTS) or status >= 500:
            raise EnvironmentUnavailableError(f"The registry of {what} answers with {status}")
        raise EnvironmentFailedError(f"The registry refuses the image {what} ({status})")


async def version_in_time(question: Inquiry) -> str:
    """What `question.version()` says; EnvironmentUnavailableError after PATIENCE.

    In a thread of its own: a registry is the sender's choice, and one that answers a byte at a time would keep
    those that the event loop has for everything else, one after the other.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def settle(version: str, error: BaseException | None) -> None:
        if answer.done():  # nobody waits any more
            return
        if error is None:
            answer.set_result(version)
        else:
            answer.set_exception(error)

    def ask() -> None:
        version, error = "", None
        try:
            version = question.version()
        except BaseException as trouble:  # noqa: BLE001 - it is raised where it is awaited
            error = trouble
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, version, error)

    Thread(target=ask, name="ask a registry", daemon=True).start()
    try:
        async with asyncio.timeout(PATIENCE):
            return await answer
    except TimeoutError:
        raise EnvironmentUnavailableError(f"{question.about} does not answer in {PATIENCE:g} s") from None


def _token(body: bytes) -> str:
    """Of the service that a registry sends its clients to; "" when it gave none."""
    with contextlib.suppress(ValueError, AttributeError, RecursionError):
        document = loads(body)
        if isinstance(token := document.get("token") or document.get("access_token"), str):
            return token
    return ""


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
