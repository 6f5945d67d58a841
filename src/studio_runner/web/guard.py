"""Who may ask for what, and the headers that every answer carries."""

import base64
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio_runner.errors import StudioRunnerError
from studio_runner.web.problems import ForbiddenError, MisdirectedError, UnknownCallerError, problem

PROBES = frozenset({"/healthz", "/readyz"})
"""What whoever starts and stops runners asks, and has no token for."""

SAFE = frozenset({"GET", "HEAD"})

POLICY: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Access:
    """`names`: hosts that requests may name (None: any); `private`: the token is needed to read as well; `token`:
    what callers must know ("": there is none)."""

    names: frozenset[str] | None
    private: bool
    token: str = field(repr=False)

    def check(self, method: str, path: str, headers: Headers) -> None:
        """Raises when the request must not be answered."""
        if self.names is not None and _host(headers) not in self.names:
            # A page from anywhere may call this machine by a name of its own (DNS rebinding).
            raise MisdirectedError(
                "This runner answers to this machine only, and the request names another host",
                hint="Use http://localhost or the address it listens on; a proxy must set the Host header so.",
            )
        if method not in SAFE:
            self._check_command(headers)
        elif self.private and self.token and path not in PROBES and not self._knows(headers, _BASIC | _BEARER):
            raise UnknownCallerError("This needs the runner's token", hint="Send `Authorization: Bearer TOKEN`.")

    def _check_command(self, headers: Headers) -> None:
        if not self.token:
            raise ForbiddenError(
                "This runner takes no commands over HTTP: no token is configured",
                hint="Set http.token in its configuration file, or STUDIO_RUNNER_HTTP_TOKEN, and start it again.",
            )
        # no Basic here: a browser sends that by itself, also when another site's page asks it to
        if not self._knows(headers, _BEARER):
            raise UnknownCallerError("This needs the runner's token", hint="Send `Authorization: Bearer TOKEN`.")

    def _knows(self, headers: Headers, schemes: frozenset[str]) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        scheme = scheme.lower()
        if scheme not in schemes:
            return False
        # a header is bytes, which Starlette reads as Latin-1
        token = _password(given) if scheme in _BASIC else given.strip().encode("latin-1")
        return hmac.compare_digest(token, self.token.encode())


_BEARER, _BASIC = frozenset({"bearer"}), frozenset({"basic"})


class Guard:
    """An application around another one."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(POLICY)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        app = self._app
        try:
            self._access.check(scope["method"], scope["path"], Headers(scope=scope))
        except StudioRunnerError as error:
            app = problem(Request(scope), error)
        await app(scope, receive, send_with_headers)


def _host(headers: Headers) -> str:
    """The host that the request names, without its port, in small letters."""
    host = headers.get("host", "").lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _password(given: str) -> bytes:
    """Of `Basic` credentials; empty when they are none."""
    try:
        return base64.b64decode(given, validate=True).partition(b":")[2]
    except ValueError:
        return b""
