"""The runner's own token for Google Cloud Storage: Application Default Credentials.

https://cloud.google.com/docs/authentication/application-default-credentials
"""

import asyncio
import base64
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from studio_runner.errors import ConfigError, UnauthorisedError
from studio_runner.storage.objects.bucket import Bucket
from studio_runner.storage.objects.client import Call, Client
from studio_runner.storage.objects.retry import PassingError, persist
from studio_runner.storage.objects.signing import Unsigned

_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_TOKENS = "https://oauth2.googleapis.com/token"
_METADATA = "metadata.google.internal"
_METADATA_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"
_WELL_KNOWN = Path("gcloud", "application_default_credentials.json")
_MARGIN = 120.0
"""Seconds before its end at which a token is renewed."""


class _Token(NamedTuple):
    text: str
    end: float


class Bearer:
    """A token that was given."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def who(self) -> str:
        return "the token given"

    async def headers(self, request: Unsigned, bucket: Bucket, skew: float) -> dict[str, str]:  # noqa: ARG002
        return {**request.headers, "authorization": f"Bearer {self._token}"}


class OwnToken:
    """That of the account this machine or its operator is known as; `environment` says where to look."""

    def __init__(self, client: Client, environment: Mapping[str, str] | None = None) -> None:
        self._client = client
        self._environment = os.environ if environment is None else environment
        self._token = _Token("", 0.0)
        self._asking = asyncio.Lock()

    async def who(self) -> str:
        return "the runner's own account"

    async def headers(self, request: Unsigned, bucket: Bucket, skew: float) -> dict[str, str]:  # noqa: ARG002
        async with self._asking:
            if time.time() > self._token.end - _MARGIN:
                self._token = await persist(self._client.patience, self._ask)
        return {**request.headers, "authorization": f"Bearer {self._token.text}"}

    async def _ask(self) -> _Token:
        path = self._path()
        if path is None:
            host = self._environment.get("GCE_METADATA_HOST") or _METADATA
            call = Call("GET", f"http://{host}{_METADATA_PATH}", {"metadata-flavor": "Google"})
        else:
            account = await asyncio.to_thread(_account, path)
            uri, form = await asyncio.to_thread(_form, account, path)
            headers = {"content-type": "application/x-www-form-urlencoded"}
            call = Call("POST", uri, headers, urlencode(form).encode())
        return await self._fetch(call)

    async def _fetch(self, call: Call) -> _Token:
        async with self._client.send(call) as reply:
            body = await reply.read()
        if reply.status >= 500:
            raise PassingError(f"{call.endpoint} gives no token for now (status {reply.status})")
        try:
            said = json.loads(body)
            return _Token(said["access_token"], time.time() + float(said.get("expires_in", 0)))
        except (ValueError, KeyError, TypeError) as error:
            raise UnauthorisedError(
                f"{call.endpoint} gives no token for Google Cloud Storage (status {reply.status})",
                hint="look at the runner's GOOGLE_APPLICATION_CREDENTIALS or its service account",
            ) from error

    def _path(self) -> Path | None:
        named = self._environment.get("GOOGLE_APPLICATION_CREDENTIALS")
        if named:
            return Path(named)
        configuration = self._environment.get("CLOUDSDK_CONFIG")
        home = Path(self._environment.get("HOME") or "/")
        known = Path(configuration, _WELL_KNOWN.name) if configuration else home / ".config" / _WELL_KNOWN
        return known if known.is_file() else None


def _account(path: Path) -> dict[str, Any]:
    try:
        account = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"the Google credentials in {path} cannot be read: {error}") from error
    if not isinstance(account, dict):
        raise ConfigError(f"{path} holds no Google credentials")
    return account


def _form(account: Mapping[str, Any], path: Path) -> tuple[str, dict[str, str]]:
    """Whom to ask for a token, and with what. ConfigError."""
    kind = account.get("type")
    try:
        uri = str(account.get("token_uri") or _TOKENS)
        if kind == "authorized_user":
            wanted = ("client_id", "client_secret", "refresh_token")
            return uri, {"grant_type": "refresh_token", **{name: str(account[name]) for name in wanted}}
        if kind == "service_account":
            assertion = _assertion(account, uri)
            return uri, {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{path} is no whole Google {kind}: {type(error).__name__}") from error
    raise ConfigError(
        f"{path} holds Google credentials of the type {kind!r}",
        hint="service_account and authorized_user are understood, and the metadata server where there is no file",
    )


def _assertion(account: Mapping[str, Any], uri: str) -> str:
    """A signed statement of who asks (RFC 7523)."""
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415 - seldom wanted
    from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: PLC0415

    now = int(time.time())
    header = {"alg": "RS256", "typ": "JWT", "kid": account.get("private_key_id", "")}
    claims = {"iss": account["client_email"], "scope": _SCOPE, "aud": uri, "iat": now, "exp": now + 3600}
    text = b".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
    key = serialization.load_pem_private_key(str(account["private_key"]).encode(), password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("the private key is no RSA key")  # noqa: TRY004 - of the file, not of the program
    return b".".join((text, _base64(key.sign(text, padding.PKCS1v15(), hashes.SHA256())))).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
