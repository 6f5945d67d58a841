"""What the runner would make of a request, said before it is queued. Nothing is run and nothing is changed."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

from studio_runner.cli.checkup.container import container, image_at_registry, is_pulled, own_python
from studio_runner.cli.checkup.finding import Finding, Here, ok, problem, warning
from studio_runner.cli.checkup.gpus import looked_at, named, troubles
from studio_runner.config.reach import reach_of
from studio_runner.environments.indexes import IndexReader
from studio_runner.environments.interpreters import Interpreters
from studio_runner.environments.plan import Planner
from studio_runner.environments.programs import clean
from studio_runner.errors import (
    EnvironmentFailedError,
    ExperimentError,
    KeyFileError,
    ObjectNotFoundError,
    RejectedError,
    StudioRunnerError,
)
from studio_runner.machine.gpus.pool import Pool
from studio_runner.machine.inventory import inventory
from studio_runner.machine.ledger import Ledger
from studio_runner.machine.need import GpuNeed
from studio_runner.messages.arguments import script_arguments
from studio_runner.messages.artifact import Artifact
from studio_runner.messages.request import Request
from studio_runner.messages.secrets import shown_words
from studio_runner.messages.units import format_duration, format_size
from studio_runner.runner.contained import is_contained
from studio_runner.runner.intake import need_of
from studio_runner.runner.opener import Opener
from studio_runner.runner.prepare import WORKSPACE, spec_of
from studio_runner.storage.access import access_to
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.registry import Stores
from studio_runner.storage.transfer import fetch

SHOWN = 8
"""Requirement lines that are repeated."""


async def examine(body: bytes, here: Here, queue: str = "") -> AsyncIterator[Finding]:
    """Sentence by sentence, in the order in which the runner would find out. `queue` is where the message is to
    come from; without one nobody's signature is asked for."""
    opener = Opener(here.settings.trust if queue else replace(here.settings.trust, request_signatures_dir=None))
    try:
        opener.prepare()
    except KeyFileError as error:
        yield problem("keys", str(error), error.hint or "")
        return
    reading = opener.read(queue, body)
    if reading is None:
        yield problem("message", f"a key of queue {queue} is just being written", "Try again in a moment.")
        return
    request = reading.request
    if request is None:
        yield _unread(reading.error)
        return
    yield ok("message", f"valid{', sealed' if reading.sealed else ''}; the experiment is {request.key}")
    if reading.sender:
        yield ok("signature", f"by {reading.sender}, as queue {queue} demands")
    for finding in (*_resources(request, here), *await container(request, here), *_limits(request)):
        yield finding
    async for finding in _environment(request, here):
        yield finding
    async with Stores(here.settings.storage, reach_of(here.settings)) as stores:
        for label, artifact in request.artifacts.items():
            if is_pulled(artifact):
                yield await asyncio.to_thread(image_at_registry, artifact, here)
            else:
                yield await _checked(label, artifact, request, stores)
        async for finding in _script(request, stores):
            yield finding


def _unread(error: ExperimentError | None) -> Finding:
    page = "docs/how-to/encrypt-and-sign.md" if isinstance(error, RejectedError) else "docs/reference/messages.md"
    return problem("message", str(error), (error and error.hint) or f"{page} says what is accepted.")


def _resources(request: Request, here: Here) -> Iterator[Finding]:
    settings = here.settings
    need = need_of(request.resources, cpu_only=settings.machine.cpu_only)
    share = need.share
    amounts = {"memory": share.memory, "disk": share.disk}
    asked = [f"{format_size(amount)} {kind}" for kind, amount in amounts.items() if amount]
    wanted = ", ".join([f"{share.cores} core{'' if share.cores == 1 else 's'}", *asked])
    with looked_at(here) as (_, pool):
        ledger = Ledger(inventory(settings.machine, settings.places.working_dir), pool)
        if lacking := ledger.shortfalls(need):
            mend = "Ask for less, or queue it where a larger machine serves the queue."
            yield problem("resources", f"it does not fit on this machine: {'; '.join(lacking)}", mend)
            return
        yield ok("resources", f"it fits here: {wanted}")
        if settings.machine.cpu_only and (request.resources.gpus or request.resources.gpu_count):
            yield warning("GPUs", "it asks for some, and runs without (--cpu-only)", "Start the runner without it.")
        yield from _gpus(need.gpus, pool)


def _gpus(need: GpuNeed, pool: Pool) -> Iterator[Finding]:
    """Which cards it would get of those that are well now."""
    if not need:
        return
    if assignment := pool.take(need):
        yield ok("GPUs", f"on an idle machine it would get {named(pool, assignment)}")
    else:
        yield warning("GPUs", f"it has to wait: {troubles(pool)}", "`studio-runner doctor` tells of every card.")


def _limits(request: Request) -> Iterator[Finding]:
    deadline = request.lifetime_deadline
    if deadline is not None and deadline < time.time():
        ago = format_duration(time.time() - deadline)
        yield problem("lifetime", f"it was over {ago} ago", "Submit it again, or raise experimentLifetime.")
    elif deadline is not None:
        yield ok("lifetime", f"{format_duration(deadline - time.time())} are left")
    if limit := request.experiment.max_duration:
        yield ok("time limit", f"it is stopped after {format_duration(limit)} (max_duration)")
    if period := request.checkpoint_period:
        yield ok("checkpoints", f"every {format_duration(period)}")


async def _environment(request: Request, here: Here) -> AsyncIterator[Finding]:
    """The interpreter, and what the installer would be given. Whether that installs, only the installer knows."""
    if is_contained(request):
        yield own_python(request, here)
        return
    interpreters = Interpreters(here.settings.places.cache_dir / "interpreters.json", here.environ)
    try:
        plan = await Planner(interpreters, IndexReader(here.environ)).plan(spec_of(request))
    except EnvironmentFailedError as error:
        yield problem("environment", str(error), error.hint or "")
        return
    except OSError as error:
        yield problem("environment", f"the cache cannot be used: {error}", "`studio-runner doctor` looks closer.")
        return
    asked = f"python {request.pythonver}" if request.pythonver else "any Python 3"
    yield ok("environment", f"{plan.interpreter} ({plan.interpreter.path}) for {asked}")
    for note in plan.notes:
        yield ok("environment", note)
    lines = (*plan.requirements.lines, *plan.extra.lines)
    shown = ", ".join(clean(line, plan.secrets) for line in lines[:SHOWN])
    more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    yield ok("environment", f"packages: {shown}{more}" if lines else "no packages")


async def _checked(label: str, artifact: Artifact, request: Request, stores: Stores) -> Finding:
    try:
        return await _artifact(artifact, request, stores)
    except StudioRunnerError as error:
        return problem(f"artifact {label}", str(error), error.hint or "")


async def _artifact(artifact: Artifact, request: Request, stores: Stores) -> Finding:
    """Whether it is there, with the credentials that the runner would have for it."""
    subject = f"artifact {artifact.label}"
    store, key = stores.open(artifact.location, access_to(request, artifact))
    try:
        found = await store.head(key)
    except ObjectNotFoundError:
        if artifact.mutable:
            return ok(subject, f"nothing yet at {artifact.address}")
        return problem(subject, f"it is not at {artifact.address}", "Put it there, or submit the experiment again.")
    return ok(subject, f"{format_size(found.size)} at {artifact.address}")


async def _script(request: Request, stores: Stores) -> AsyncIterator[Finding]:
    """Whether the script is in the workspace, which is unpacked to see."""
    script, workspace = request.experiment.filename, request.artifacts.get(WORKSPACE)
    arguments = " ".join(map(repr, shown_words(script_arguments(request.experiment.args))))
    if script is None and is_contained(request):
        yield ok("script", f"the image's own program {arguments}".strip())
        return
    if script is None:
        yield problem("script", "none is named (filename is null)", "Name the script, or bring a container.")
        return
    if script == "-m" or script.startswith("/") or workspace is None:
        yield ok("script", f"{script} {arguments}".strip())
        return
    try:
        there = await _holds(workspace, script, request, stores)
    except StudioRunnerError as error:
        yield problem("script", f"the workspace cannot be unpacked: {error}", error.hint or "")
        return
    if there:
        yield ok("script", f"{script} {arguments}".strip())
    else:
        yield problem("script", f"{script} is not in the workspace", "Submit the experiment from its directory.")


async def _holds(workspace: Artifact, script: str, request: Request, stores: Stores) -> bool:
    store, key = stores.open(workspace.location, access_to(request, workspace))
    with tempfile.TemporaryDirectory(prefix="studio-runner-check-") as scratch:
        directory = Path(scratch, WORKSPACE)
        await fetch(workspace, store, key, directory, DiskBudget(request.resources.hdd or None))
        return await asyncio.to_thread((directory / script).is_file)
