"""From a working directory to messages on a queue: package, store, record, publish, in this order.

Nothing is published before everything it names is in the store and its record can be read.
"""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from studio_runner.client import artifacts, package
from studio_runner.client.artifacts import Capture, Reuse
from studio_runner.client.holdings import Holdings
from studio_runner.client.hyperparameters import Hyperparameter, grid, substitute
from studio_runner.client.lookup import find_current
from studio_runner.client.request import KEPT, Draft, message, new_key, script_path
from studio_runner.client.requirements import Requirements, Wanted, gather, python_version
from studio_runner.client.sealing import Post
from studio_runner.errors import (
    BrokerError,
    InvalidMessageError,
    ObjectNotFoundError,
    Reason,
    UsageError,
)
from studio_runner.messages.request import Request, parse_request
from studio_runner.messages.units import format_size
from studio_runner.queues.base import KeptBroker
from studio_runner.reports.records import OWN, Records
from studio_runner.storage.base import CHUNK

Say = Callable[[str], None]
"""Tells a person one line of what goes on."""


@dataclass(frozen=True)
class Order:
    """What the command line asks to be run: `base` as far as it says so itself, the rest is found out."""

    base: Draft
    directory: Path
    wanted: Wanted = field(default_factory=Wanted)
    python: str | None = None
    captures: tuple[Capture, ...] = ()
    captures_once: tuple[Capture, ...] = ()
    reuses: tuple[Reuse, ...] = ()
    hyperparameters: tuple[Hyperparameter, ...] = ()
    limit: int = package.DEFAULT_LIMIT


@dataclass(frozen=True)
class Desk:
    """What submitting works with. `broker` has the queue that is meant, `virtualenv` is the one that is active, if
    any, `post` makes messages of requests."""

    holdings: Holdings
    broker: KeptBroker
    virtualenv: Path | None
    say: Say
    post: Post

    @property
    def records(self) -> Records:
        return self.holdings.records


async def submit(order: Order, queue: str, desk: Desk) -> list[str]:
    """Queue the experiment, or one for every point of the hyperparameters; returns their keys."""
    return [await publish(request, queue, desk) async for request in requests(order, desk)]


async def requests(order: Order, desk: Desk) -> AsyncIterator[Request]:
    """The requests of an order, each when everything that it names is in the store."""
    _check_labels(order)
    requirements = await gather(order.wanted, order.directory, desk.virtualenv)
    _say_requirements(requirements, desk.say)
    packages = await asyncio.to_thread(_packages, order)
    draft = replace(
        order.base,
        python=order.python or python_version(desk.virtualenv),
        requirements=requirements.lines,
        artifacts={**order.base.artifacts, **await _inputs(order, desk)},
    )
    drafts = _drafts(order, draft)
    await _refuse_known(drafts, desk.records)
    for one, found in zip(drafts, packages, strict=True):
        workspace = await _store_package(found, desk)
        yield await _request(one, workspace, order.captures, desk)


async def publish(request: Request, queue: str, desk: Desk) -> str:
    """Record the experiment and put its message on the queue; returns its key."""
    document = json.loads(request.to_json())
    kept = {name: value for name, value in document["config"].items() if name in KEPT}
    posted = await asyncio.to_thread(desk.post, request)
    own = {"queue": queue, "config": kept, **({"sealed": posted.sealed} if posted.sealed else {})}
    await desk.records.create({**document["experiment"], OWN: own})
    try:
        await desk.broker.publish(queue, posted.body)
    except BrokerError as error:
        await desk.records.update(request.key, _never_queued(error))
        raise
    return request.key


def read_back(message: Mapping[str, Any]) -> Request:
    """The request as its runner will read it; UsageError when it would refuse it."""
    try:
        return parse_request(json.dumps(message, ensure_ascii=False).encode())
    except InvalidMessageError as error:
        raise UsageError(f"No runner would take this experiment: {error}") from error


async def _request(draft: Draft, workspace: Mapping[str, Any], captures: Sequence[Capture], desk: Desk) -> Request:
    stores = desk.holdings.stores
    captured = {capture.label: artifacts.mutable(stores, draft.key, capture.label) for capture in captures}
    for capture in captures:
        await _store_start(capture, str(captured[capture.label]["qualified"]), desk)
    own = {"workspace": workspace, **artifacts.results(stores, draft.key), **captured}
    whole = replace(draft, artifacts={**draft.artifacts, **own})
    return read_back(message(whole, desk.holdings.config, stores))


def _never_queued(error: BrokerError) -> dict[str, Any]:
    own = {"reason": Reason.SYSTEM_ERROR.value, "sentence": f"It could not be queued: {error}"}
    return {"status": "finished", "time_finished": time.time(), OWN: own}


def _packages(order: Order) -> list[package.Package]:
    """The workspace, once for every point of the hyperparameters."""
    found = package.workspace(order.directory, order.limit)
    if is_of_image(order.base.filename, order.captures_once):
        if order.hyperparameters:
            raise UsageError("--hyperparam needs a script of this directory to put its values into")
        return [found]
    script = package.script_in(found, script_path(str(order.base.filename), order.directory))
    if not order.hyperparameters:
        return [found]
    text = _text(order.directory / script)
    return [found.with_content(script, substitute(text, point).encode()) for point in grid(order.hyperparameters)]


def is_of_image(script: str | None, captures: Sequence[Capture]) -> bool:
    """Whether the container brings what is run: its own program, or a script by its absolute path. UsageError when
    there is no container to bring it."""
    if script is not None and not script.startswith("/"):
        return False
    if any(capture.label == artifacts.IMAGE for capture in captures):
        return True
    if script is None:
        raise UsageError("No SCRIPT is named", hint="Only a container (--container) has a program of its own.")
    return False


def _text(script: Path) -> str:
    try:
        return script.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"The script {script} is not UTF-8 text: no hyperparameter can be put into it") from error


def _drafts(order: Order, draft: Draft) -> list[Draft]:
    if not order.hyperparameters:
        return [replace(draft, key=draft.key or new_key())]
    base = draft.key or str(uuid.uuid4())
    project = draft.project or f"hyperparam_{base}"
    return [
        replace(draft, key=f"{base}__opt__{uuid.uuid4().hex}__{int(time.time())}", project=project)
        for _ in grid(order.hyperparameters)
    ]


async def _refuse_known(drafts: Sequence[Draft], records: Records) -> None:
    for draft in drafts:
        if await records.read(draft.key) is not None:
            raise UsageError(
                f"There is an experiment {draft.key} already",
                hint="Choose another --experiment, or leave it out to have one made.",
            )


def _check_labels(order: Order) -> None:
    captured = [capture.label for capture in (*order.captures, *order.captures_once)]
    artifacts.no_duplicates([*captured, *(reuse.new_label for reuse in order.reuses)])
    for capture in order.captures:
        if capture.path is None:
            raise UsageError(
                f"--capture {capture.address}:{capture.label}: an address can only be read",
                hint="Use --capture-once for it.",
            )


async def _inputs(order: Order, desk: Desk) -> dict[str, Any]:
    """The immutable artifacts beside the workspace, stored where that is needed."""
    found: dict[str, Any] = {}
    for capture in order.captures_once:
        if capture.path is None:
            found[capture.label] = artifacts.remote(capture)
        else:
            desk.say(f"storing {capture.path} as {capture.label}")
            collect = package.image if capture.label == artifacts.IMAGE else package.data
            found[capture.label] = await _store_package(await asyncio.to_thread(collect, capture.path), desk)
    for reuse in order.reuses:
        record = await find_current(desk.holdings, reuse.key)
        found[reuse.new_label] = artifacts.reused(reuse, record.document.get("artifacts") or {})
    return found


async def _store_package(found: package.Package, desk: Desk) -> dict[str, Any]:
    """Put the package into the blob store unless it is there, and return its artifact."""
    found = _without_keys(found, desk)
    packed = await _archive(found, desk.say)
    with packed.file:
        artifact = artifacts.blob(desk.holdings.stores, packed.digest)
        if not await _is_stored(str(artifact["qualified"]), desk.holdings):
            desk.say(f"storing {found.root}: {format_size(packed.size)}, files: {len(found.files)}")
            await _store(str(artifact["qualified"]), packed, desk.holdings)
    return artifact


async def _store_start(capture: Capture, address: str, desk: Desk) -> None:
    """What a captured directory holds already is what the experiment starts with."""
    if capture.path is None or not capture.path.exists():
        return
    found = _without_keys(await asyncio.to_thread(package.data, capture.path), desk)
    packed = await _archive(found, desk.say)
    with packed.file:
        await _store(address, packed, desk.holdings)


def _without_keys(found: package.Package, desk: Desk) -> package.Package:
    """Wherever a sender keeps the key that signs: it does not travel."""
    kept = found.without(desk.holdings.config.own_files)
    for name in sorted(found.files.keys() - kept.files.keys()):
        desk.say(f"{name} is left out: it is your signing key, or the passphrase of it")
    return kept


async def _archive(found: package.Package, say: Say) -> package.Archive:
    notes: list[str] = []
    packed = await asyncio.to_thread(package.archive, found, notes.append)
    for note in notes:
        say(note)
    return packed


async def _is_stored(address: str, holdings: Holdings) -> bool:
    store, key = holdings.opener.open_address(address)
    try:
        await store.head(key)
    except ObjectNotFoundError:
        return False
    return True


async def _store(address: str, packed: package.Archive, holdings: Holdings) -> None:
    store, key = holdings.opener.open_address(address)
    await store.put(key, _pieces(packed))


async def _pieces(packed: package.Archive) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(packed.file.read, CHUNK):
        yield piece


def _say_requirements(requirements: Requirements, say: Say) -> None:
    count = len(requirements.lines)
    say(f"requirements: {count or 'none'} ({requirements.source})")
    for note in requirements.notes:
        say(note)
