"""What environments are made of: interpreters, uv, and an index to install from."""

import asyncio
import base64
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit

from studio_runner.cli.checkup.finding import Finding, Here, ok, problem, warning
from studio_runner.environments.indexes import IndexReader, Transport
from studio_runner.environments.requirements import mask_url
from studio_runner.messages.units import format_duration

PATIENCE = 5.0
"""Seconds that an index or uv has to answer."""

SKEW = 60.0
"""Seconds the clock may be wrong before certificates and lifetimes suffer."""


def interpreters(here: Here) -> Iterator[Finding]:
    """Versions that experiments can ask for."""
    from studio_runner.environments.interpreters import Interpreters

    found = asyncio.run(Interpreters(here.settings.places.cache_dir / "interpreters.json", here.environ).all())
    regular = {one.numbers: one for one in found if one.regular}
    if not regular:
        yield problem("interpreters", "none was found", "Install one, for example: uv python install 3.12")
        return
    listed = ", ".join(str(regular[numbers]) for numbers in sorted(regular, reverse=True))
    yield ok("interpreters", listed)


def uv(here: Here) -> Iterator[Finding]:
    """uv builds the environments; the one that belongs to this installation is used."""
    argv = [sys.executable, "-m", "uv", "--version"]
    try:
        answer = subprocess.run(
            argv, capture_output=True, text=True, timeout=PATIENCE, check=True, env={**here.environ}
        )
    except (OSError, subprocess.SubprocessError) as error:
        yield problem("uv", f"it does not run: {error}", "Install it again: pip install --force-reinstall uv")
        return
    yield ok("uv", answer.stdout.strip())


def indexes(here: Here) -> Iterator[Finding]:
    """Whether the package indexes that are configured for pip or uv answer."""
    configured = IndexReader(here.environ).read()
    sources = configured.sources
    if sources.no_index:
        places = ", ".join(map(mask_url, sources.find_links)) or "nowhere"
        yield ok("index", f"none is used; packages come from {places}")
        return
    if not sources.default:
        yield from _default_index(here)
    for address in (sources.default, *sources.extra):
        if address:
            yield from _index(address, configured.transport)


def _default_index(here: Here) -> Iterator[Finding]:
    """None is configured, so uv asks the one that it knows; it is the one who can say whether that answers."""
    argv = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-cache", "--no-deps", "--no-header", "-"]
    try:
        subprocess.run(
            argv,
            input="pip",
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE,
            check=True,
            env={**here.environ},
        )
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or ["it gives no reason"])[0]
        yield _unreachable(f"uv's default index does not answer: {mask_url(said)}")
    except (OSError, subprocess.TimeoutExpired) as error:
        yield _unreachable(f"uv's default index does not answer: {error}")
    else:
        yield ok("index", "uv's default index answers")


def _unreachable(what: str) -> Finding:
    return problem(
        "index",
        what,
        "Name one that does in pip.conf or PIP_INDEX_URL, or set a proxy. "
        "Experiments without requirements, and those whose environment is in the cache, run all the same.",
    )


def _index(address: str, transport: Transport) -> Iterator[Finding]:
    shown = mask_url(address)
    parts = urlsplit(address)
    if parts.scheme in ("", "file"):
        there = Path(unquote(parts.path)).is_dir()
        yield ok("index", shown) if there else problem("index", f"{shown} is not there", "Correct pip's index-url.")
        return
    try:
        status, headers = _ask(address, transport)
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        yield _unreachable(f"{shown} does not answer: {reason}")
        return
    if status in (401, 403):
        yield problem(
            "index", f"{shown} refuses us (HTTP {status})", "Correct the credentials in pip.conf or netrc."
        )
    elif status >= 500:
        yield warning("index", f"{shown} is in trouble (HTTP {status})", "Try again later.")
    else:
        yield ok("index", f"{shown} answers")
    yield from _clock(shown, headers)


def _ask(address: str, transport: Transport) -> tuple[int, Message]:
    """Ask for one small page; an index that does not have it is there nevertheless."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    request = urllib.request.Request(f"{bare.rstrip('/')}/pip/", headers={"User-Agent": "studio-runner"})  # noqa: S310
    if parts.username:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_header("Authorization", f"Basic {base64.b64encode(credentials.encode()).decode()}")
    context = ssl.create_default_context(cafile=transport.certificates)
    if any(trusted.partition(":")[0] == host for trusted in transport.trusted_hosts):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # noqa: TID251 - as pip was told
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
    if transport.proxy:
        handlers.append(urllib.request.ProxyHandler({"http": transport.proxy, "https": transport.proxy}))
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=PATIENCE) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers


def _clock(shown: str, headers: Message) -> Iterator[Finding]:
    try:
        there = parsedate_to_datetime(headers["Date"] or "").timestamp()
    except (TypeError, ValueError):
        return
    skew = time.time() - there
    if abs(skew) > SKEW:
        yield warning(
            "clock",
            f"it is {format_duration(abs(skew))} {'ahead of' if skew > 0 else 'behind'} that of {shown}",
            "Let this machine keep time with NTP; lifetimes of experiments are counted by its clock.",
        )
