"""The prepare stage: the artifacts are fetched while the environment is built."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

from studio_runner.environments.base import Environment, EnvironmentSpec
from studio_runner.environments.containers.isolation import Box
from studio_runner.environments.containers.provider import ContainerSpec
from studio_runner.errors import ArtifactInvalidError, EnvironmentUnavailableError
from studio_runner.machine.cards import NO_ASSIGNMENT, Assignment
from studio_runner.messages.request import Request
from studio_runner.runner.contained import is_contained
from studio_runner.runner.images import IMAGE, image_source
from studio_runner.runner.trial import Trial

WORKSPACE = "workspace"
SHOWN = 12
"""File names shown when the script is missing."""


async def prepare(trial: Trial, stack: AsyncExitStack) -> Environment:
    """Everything the script needs; the environment is in use until `stack` ends.

    All of it goes on side by side, and the first to fail ends the rest.
    """
    await _require_allowed(trial)
    (trial.directory / WORKSPACE).mkdir(exist_ok=True)
    async with asyncio.TaskGroup() as group:
        entering = stack.enter_async_context(_environment(trial))
        building = group.create_task(entering, name="prepare environment")
        group.create_task(trial.artifacts.fetch(trial.budget), name="fetch artifacts")
        if not trial.delivery.redelivered:
            group.create_task(trial.artifacts.approach(first=True), name="approach the fence")
    _require_script(trial.request, trial.directory / WORKSPACE)
    return building.result()


@asynccontextmanager
async def _environment(trial: Trial) -> AsyncIterator[Environment]:
    """A container where the request brings an image, else a virtual environment."""
    spec, host, note = spec_of(trial.request, trial.reservation.gpus), trial.host, trial.output.note
    source = await image_source(trial.request, host.stores, host.settings.caches.images)
    prepared: AbstractAsyncContextManager[Environment] = (
        host.environments.prepare(spec, note)
        if source is None
        else host.containers.prepare(container_of(trial, spec), source, note)
    )
    async with prepared as environment:
        yield environment


def container_of(trial: Trial, environment: EnvironmentSpec) -> ContainerSpec:
    """What the request asks of its container. The workspace may be written to, whatever the message says: it is a
    copy, and scripts write beside themselves."""
    request, gpus = trial.request, trial.reservation.gpus
    box = Box(
        directory=trial.directory,
        read_only=tuple(
            trial.directory / label
            for label, artifact in request.artifacts.items()
            if not artifact.mutable and label not in (IMAGE, WORKSPACE)
        ),
        vendor=gpus.vendor if gpus.cards else "",
        network=trial.host.settings.containers.network,
    )
    return ContainerSpec(box, None if request.experiment.filename is None else environment)


def spec_of(request: Request, gpus: Assignment = NO_ASSIGNMENT) -> EnvironmentSpec:
    """What the request asks of its environment, when it has these GPUs."""
    return EnvironmentSpec(
        python=request.pythonver,
        requirements=tuple(request.experiment.pythonenv),
        extra=tuple(request.config.pip),
        variables=request.environment_variables,
        gpus=bool(gpus.cards),
    )


async def _require_allowed(trial: Trial) -> None:
    """Intake leaves such messages to others; here come those that are run by name, and what was sealed."""
    if is_contained(trial.request):
        await trial.host.readiness.tried()
    if why := trial.host.policy(trial.request):
        raise EnvironmentUnavailableError(
            f"The experiment is not run here: {'; '.join(why)}", hint="Send it to a queue whose runners do."
        )


def _require_script(request: Request, workspace: Path) -> None:
    """A missing script is said in words of the experiment, not in the interpreter's."""
    name = request.experiment.filename
    if is_contained(request) and (name is None or name.startswith("/")):
        return  # it is the image's
    if name is None:
        raise ArtifactInvalidError(
            "the request names no script (filename is null), which only a container can run",
            hint="submit the experiment with the name of its script",
        )
    if name == "-m" or (workspace / name).is_file():
        return
    there = sorted(os.listdir(workspace))  # noqa: PTH208 - names only
    listed = ", ".join(there[:SHOWN]) + (", ..." if len(there) > SHOWN else "")
    raise ArtifactInvalidError(f"the workspace has no file {name}; it has: {listed or 'nothing'}")
