"""Logins for repositories of git, kept off command lines: installers hand git the address with all that is in it,
and everybody on the machine can read that."""

import base64
import re
from collections.abc import Mapping, Sequence
from urllib.parse import unquote

_ADDRESS = re.compile(r"(?<=git\+)(https?://)([^/\s@]+)@([^/\s@?#]+(?:/[^\s@?#]*)?)")


def without_logins(lines: Sequence[str], environ: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The requirement lines without them, and variables that tell git of them all the same (git-config,
    GIT_CONFIG_COUNT), beside those in `environ`."""
    headers: dict[str, str] = {}

    def taken(found: re.Match[str]) -> str:
        scheme, login, place = found.groups()
        user, _, password = login.partition(":")
        basic = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
        headers[f"http.{scheme}{place}.extraHeader"] = f"Authorization: Basic {basic}"
        return scheme + place

    bare = [_ADDRESS.sub(taken, line) for line in lines]
    return bare, _settings(headers, int(environ.get("GIT_CONFIG_COUNT") or 0)) if headers else {}


def _settings(settings: Mapping[str, str], first: int) -> dict[str, str]:
    numbered = enumerate(settings.items(), first)
    named = {
        f"GIT_CONFIG_{kind}_{number}": text
        for number, pair in numbered
        for kind, text in zip(("KEY", "VALUE"), pair, strict=True)
    }
    return {"GIT_CONFIG_COUNT": str(first + len(settings)), **named}
