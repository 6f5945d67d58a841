"""Which values in a message are secret."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import Any
from urllib.parse import unquote

from studio_runner.errors import InvalidMessageError
from studio_runner.messages.arguments import script_arguments
from studio_runner.messages.jsontext import read_json
from studio_runner.messages.request import Request
from studio_runner.messages.secrets import is_secret_name

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
_PLAIN_NUMBER = re.compile(r"[-+]?[\d.,_]{1,10}(e[-+]?\d+)?", re.IGNORECASE)
"""Up to this length a number may be a step, a size or a loss."""
_ONE_CHARACTER = re.compile(r"(.)\1*", re.DOTALL)
_PLACEHOLDER = re.compile(r"%\w+%|\$\w+|\$?\{+[\w. ]*\}+|<\S*>|\[\S*\]")
_NAMES_A_FILE = re.compile(r"(_file|_path|_dir|credentials)$", re.IGNORECASE)
_PATH = re.compile(r"~|\.{0,2}/")
_FILE = re.compile(r"(~|\.{0,2})/[\w./-]*\.[A-Za-z]{2,5}")
_ADDRESS = re.compile(r"://(?:([^/\s@]*)@)?[^\s?#]*(?:\?(\S+))?")
_TOKEN = 16
"""Characters before the `@` of an address that are no user's name any more."""
_SIGNATURE = re.compile(r"sig(nature)?$|^key$", re.IGNORECASE)
_OPTION = re.compile(r"--?([A-Za-z][\w-]*)(?:=(.*))?", re.DOTALL)


def secrets_of(request: Request) -> frozenset[str]:
    """Every secret of a message, also those among the script's arguments."""
    return secrets_in(request.document) | frozenset(filter(is_telling, _in_arguments(request)))


def secrets_in(document: Mapping[str, Any]) -> frozenset[str]:
    """Every secret of a JSON object: values under secret names, credentials, and what opens addresses."""
    found: set[str] = set()
    _collect(dict(document), "", found, is_credential=False)
    return frozenset(filter(is_telling, found))


def is_telling(value: str) -> bool:
    """Whether a secret can be told from harmless text: hiding it must not hide words and numbers of the output."""
    return (
        len(value) >= SHORTEST
        and value.lower() not in _HARMLESS
        and not _PLAIN_NUMBER.fullmatch(value)
        and not _ONE_CHARACTER.fullmatch(value)
        and not _PLACEHOLDER.fullmatch(value)
    )


def secrets_in_address(text: str) -> Iterator[str]:
    """Passwords and signatures of the addresses in a text, also as they are without percent escapes."""
    for userinfo, query in _ADDRESS.findall(text):
        user, colon, password = userinfo.partition(":")
        for secret in (password if colon else user if len(user) >= _TOKEN else "", *_signatures(query)):
            yield secret
            yield unquote(secret)


def _signatures(query: str) -> Iterator[str]:
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        if not equals:
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
    elif isinstance(value, int | float) and (is_credential or is_secret_name(name)):
        found.add(str(value))


def _collect_secret(value: str, name: str, found: set[str]) -> None:
    """The value of a secret name: itself, and what is secret in it when it is JSON (keys of service accounts)."""
    if _FILE.fullmatch(value) or (_NAMES_A_FILE.search(name) and _PATH.match(value)):
        return
    found.add(value.strip())
    if value.lstrip().startswith("{"):
        with suppress(InvalidMessageError):
            _collect(
                read_json(value.encode(errors="surrogatepass"), len(value) * 4), "", found, is_credential=False
            )


def _in_arguments(request: Request) -> Iterator[str]:
    """`--password VALUE` and `--token=VALUE`."""
    arguments: Sequence[str] = script_arguments(request.experiment.args)
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        option = _OPTION.fullmatch(argument)
        if option and is_secret_name(option[1].replace("-", "_")):
            yield following if option[2] is None else option[2]
