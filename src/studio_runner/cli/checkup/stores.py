"""The buckets of the StudioML configuration, tried out with an object of our own, and whoever is to be told."""

import asyncio
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

from studio_runner.cli.checkup.finding import Finding, Here, ok, problem, warning
from studio_runner.cli.checkup.places import SKEW
from studio_runner.client.stores import kind_of
from studio_runner.errors import PreconditionFailedError, StudioRunnerError
from studio_runner.messages.units import format_duration
from studio_runner.storage.base import Precondition, Store

PATIENCE = 5.0
"""Seconds for one connection to whoever is to be told."""

_CONTENT = b"written by studio-runner doctor, to be deleted at once\n"


def buckets(here: Here) -> Iterator[Finding]:
    """Where submitted experiments have their artifacts and their records."""
    for name, section in (("storage", here.config.storage), ("database", here.config.database)):
        if kind_of(section) in ("s3", "gs"):
            yield from asyncio.run(_bucket(here, name))


def notices(here: Here) -> Iterator[Finding]:
    """Whether those who are to be told of experiments can be reached. Nobody is told anything."""
    reports = here.settings.reports
    addresses = [("Slack", reports.slack_url or ("https://slack.com" if reports.slack_token else ""))]
    addresses += [("webhook", address) for address in reports.webhooks]
    for subject, address in addresses:
        if address:
            yield _reachable(subject, address)


async def _bucket(here: Here, name: str) -> list[Finding]:
    from studio_runner.client.opening import OwnOpener

    opener = OwnOpener(here.config.document, here.settings.storage)
    section = here.config.storage if name == "storage" else here.config.database
    try:
        return [finding async for finding in _tried(name, opener.open_section(section))]
    except StudioRunnerError as error:
        return [problem(name, str(error), error.hint or f"Check {name} in {here.config.path}.")]
    finally:
        await opener.close()


async def _tried(name: str, store: Store) -> AsyncIterator[Finding]:
    key = f"studio-runner-doctor/{uuid.uuid4()}"
    sent = time.time()
    await store.put(key, _pieces())
    try:
        content = b"".join([piece async for piece in store.get(key)])
        written = (await store.head(key)).modified
        conditional = await _is_conditional(store, key)
    finally:
        await store.delete(key)
    if content != _CONTENT:
        yield problem(name, "an object came back other than it was written", "Look for proxies in between.")
        return
    yield ok(name, "an object can be written, read and deleted in its bucket")
    if conditional:
        yield ok(name, "conditional writes work: no runner overwrites the results of its successor")
    else:
        yield warning(
            name,
            "it does not refuse a conditional write: a runner that was believed dead could overwrite results",
            "Use a store with conditional writes (If-None-Match), such as AWS S3 or a recent MinIO.",
        )
    yield _clock(name, written, sent, time.time())


async def _is_conditional(store: Store, key: str) -> bool:
    try:
        await store.put(key, _pieces(), when=Precondition(None))
    except PreconditionFailedError:
        return True
    return False


async def _pieces() -> AsyncIterator[bytes]:
    yield _CONTENT


def _clock(name: str, written: float, before: float, after: float) -> Finding:
    """The store said in whole seconds when it wrote."""
    skew = max(0.0, written - after, before - 1.0 - written)
    if skew <= SKEW:
        return ok(name, "its clock is ours")
    ahead = "ahead of" if written > after else "behind"
    return warning(
        name,
        f"its clock is {format_duration(skew)} {ahead} ours",
        "Let both keep time with NTP; requests are refused from a quarter of an hour on.",
    )


def _reachable(subject: str, address: str) -> Finding:
    parts = urlsplit(address)
    host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    try:
        socket.create_connection((host, port), PATIENCE).close()
    except OSError as error:
        why = error.strerror or str(error)
        return warning(
            subject, f"{host}:{port} cannot be reached: {why}", "Check its address, and proxies in between."
        )
    return ok(subject, f"{host}:{port} can be reached")
