"""Which values in a message are secret."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from studio_runner.errors import InvalidMessageError
from studio_runner.messages.arguments import script_arguments
from studio_runner.messages.jsontext import read_json
from studio_runner.messages.secrets import PLAIN_NUMBER, USERINFO, is_secret_name, secret_words

if TYPE_CHECKING:
    from studio_runner.messages.request import Request

SHORTEST = 6
"""Characters; shorter values are found everywhere, and hiding them would hide nothing."""

_PUBLIC = frozenset(
    {
        *("user", "username", "region", "region_name", "profile", "endpoint", "type", "bucket", "scheme"),
        *("project_id", "client_email", "client_id", "auth_uri", "token_uri", "universe_domain"),
        *("auth_provider_x509_cert_url", "client_x509_cert_url"),
    }
)
"""What stands among credentials and is no secret."""
_HARMLESS = frozenset(
    {
        *("anonymous", "default", "disabled", "enabled", "example", "localhost", "nobody", "nothing", "optional"),
        *("password", "private", "public", "required", "secret", "secrets", "string", "unknown"),
    }
)
_ONE_CHARACTER = re.compile(r"(.)\1*", re.DOTALL)
_PLACEHOLDER = re.compile(r"%\w+%|\$\w+|\$?\{+[\w. ]*\}+|<\S*>|\[\S*\]")
_NAMES_A_FILE = re.compile(r"(_file|_path|_dir|credentials)$", re.IGNORECASE)
_PATH = re.compile(r"~|\.{0,2}/")
_FILE = re.compile(r"(~|\.{0,2})/[\w./-]*\.[A-Za-z]{2,5}")
_ADDRESS = re.compile(rf"://(?:({USERINFO})@)?[^\s?#]*(?:\?(\S+))?")
_TOKEN = 16
"""Characters before the `@` or behind the `?` of an address that are no word any more."""
_PART = re.compile(
    r"(?:^|;)\s*(?:password|pwd|accountkey|sharedaccess(?:key|signature))\s*=\s*([^;]+)", re.IGNORECASE
)
"""Of a connection string."""
_NO_PASSWORDS = frozenset({"", "x-oauth-basic"})
"""What stands in the place of a password where the user's name is a token."""
_SIGNATURE = re.compile(r"sig(nature)?$|^key$", re.IGNORECASE)


def secrets_of(request: "Request") -> frozenset[str]:
    """Every secret of a message."""
    return secrets_in(request.document)


def secrets_in(document: Mapping[str, Any]) -> frozenset[str]:
    """Every secret of a JSON object: values under secret names, credentials, what opens addresses, and what the
    arguments of a script (`args`) give to options of secret names."""
    found: set[str] = set()
    _collect(dict(document), "", found, is_credential=False)
    return frozenset(filter(is_telling, found))


def is_telling(value: str) -> bool:
    """Whether a secret can be told from harmless text: hiding it must not hide words and numbers of the output."""
    return (
        len(value) >= SHORTEST
        and value.lower() not in _HARMLESS
        and not PLAIN_NUMBER.fullmatch(value)
        and not _ONE_CHARACTER.fullmatch(value)
        and not _PLACEHOLDER.fullmatch(value)
    )


def secrets_in_address(text: str) -> Iterator[str]:
    """Passwords and signatures of the addresses in a text, also as they are without percent escapes."""
    for userinfo, query in _ADDRESS.findall(text):
        user, _, password = userinfo.partition(":")
        token = user if password in _NO_PASSWORDS and len(user) >= _TOKEN else ""
        for secret in (password, token, *_signatures(query)):
            yield secret
            yield unquote(secret)


def _signatures(query: str) -> Iterator[str]:
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        if not equals and len(name) >= _TOKEN:
            yield name
        elif _SIGNATURE.search(name) or is_secret_name(name):
            yield value


def _collect(value: Any, name: str, found: set[str], *, is_credential: bool) -> None:
    """From a JSON value that has this name; one that `is_credential` stands among credentials."""
    if isinstance(value, str):
        if "://" in value:
            found.update(secrets_in_address(value))
        if (is_credential and name not in _PUBLIC) or is_secret_name(name):
            _collect_secret(value, name, found)
    elif isinstance(value, dict):
        for inner_name, inner in value.items():
            _collect(inner, inner_name, found, is_credential=is_credential or inner_name == "credentials")
    elif isinstance(value, list | tuple):
        for inner in value:
            _collect(inner, name, found, is_credential=is_credential)
        if name == "args" and all(isinstance(word, str) for word in value):
            words = script_arguments(value)
            found.update(words[place][start:] for place, start in secret_words(words))
    elif isinstance(value, int | float) and (is_credential or is_secret_name(name)):
        found.add(str(value))


def _collect_secret(value: str, name: str, found: set[str]) -> None:
    """The value of a secret name: itself, and what is secret in it when it is JSON (keys of service accounts)."""
    if _FILE.fullmatch(value) or (_NAMES_A_FILE.search(name) and _PATH.match(value)):
        return
    found.add(value.strip())
    found.update(_PART.findall(value))
    if value.lstrip().startswith("{"):
        with suppress(InvalidMessageError):
            _collect(
                read_json(value.encode(errors="surrogatepass"), len(value) * 4), "", found, is_credential=False
            )
