"""The prepare stage: the artifacts are fetched while the environment is built."""

import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path

from studio_runner.environments.base import Environment, EnvironmentSpec
from studio_runner.errors import ArtifactInvalidError, EnvironmentUnavailableError
from studio_runner.messages.request import Request
from studio_runner.runner.trial import Trial

WORKSPACE = "workspace"
SHOWN = 12
"""File names shown when the script is missing."""


async def prepare(trial: Trial, stack: AsyncExitStack) -> Environment:
    """Everything the script needs; the environment is in use until `stack` ends.

    All of it goes on side by side, and the first to fail ends the rest.
    """
    _require_allowed(trial)
    (trial.directory / WORKSPACE).mkdir(exist_ok=True)
    provider = trial.host.environments
    async with asyncio.TaskGroup() as group:
        entering = stack.enter_async_context(provider.prepare(spec_of(trial.request), trial.output.note))
        building = group.create_task(entering, name="prepare environment")
        group.create_task(trial.artifacts.fetch(trial.budget), name="fetch artifacts")
        if not trial.delivery.redelivered:
            group.create_task(trial.artifacts.approach(first=True), name="approach the fence")
    _require_script(trial.request, trial.directory / WORKSPACE)
    return building.result()


def spec_of(request: Request) -> EnvironmentSpec:
    """What the request asks of its environment."""
    return EnvironmentSpec(
        python=request.pythonver,
        requirements=tuple(request.experiment.pythonenv),
        extra=tuple(request.config.pip),
        variables=request.environment_variables,
    )


def _require_allowed(trial: Trial) -> None:
    """Intake leaves such messages to others; here come those that are run by name, and what was sealed."""
    if why := trial.host.policy(trial.request):
        raise EnvironmentUnavailableError(
            f"The experiment is not run here: {'; '.join(why)}", hint="Send it to a queue whose runners do."
        )


def _require_script(request: Request, workspace: Path) -> None:
    """A missing script is said in words of the experiment, not in the interpreter's."""
    name = request.experiment.filename
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
