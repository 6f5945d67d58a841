"""The run stage: the script, its output, and what is looked after while it runs."""

import asyncio
import os
from collections.abc import Coroutine

from studio_runner.environments.base import Environment
from studio_runner.errors import Reason
from studio_runner.messages.arguments import script_arguments
from studio_runner.messages.request import Request
from studio_runner.messages.secrets import is_secret_name
from studio_runner.messages.units import format_size
from studio_runner.messages.variables import expand
from studio_runner.process.base import Exit
from studio_runner.process.environ import ATTEMPT_VARIABLE, contained_environment
from studio_runner.process.limits import Limits, memory_watch
from studio_runner.process.spawn import Process
from studio_runner.runner import watchers
from studio_runner.runner.checkpoint import checkpoints
from studio_runner.runner.contained import is_contained
from studio_runner.runner.halt import Halt
from studio_runner.runner.metrics import samples
from studio_runner.runner.outcome import RULES, Outcome, of_reason
from studio_runner.runner.prepare import WORKSPACE
from studio_runner.runner.trial import Trial

BEGINNING = 8192
"""Bytes of output by which a container's runtime is told from the script."""


async def run_script(trial: Trial, environment: Environment) -> Outcome:
    """Run the script to its end; when cancelled, stop its whole tree first. `trial.exit` is set either way."""
    command = environment.command(arguments(trial.request), variables(trial), trial.directory / WORKSPACE)
    trial.describe_start(environment)
    begun = trial.output.size
    reader, writer = os.pipe()
    draining = asyncio.create_task(trial.output.drain(reader), name="drain output")
    try:
        try:
            trial.process = process = await trial.host.spawner.spawn(command, writer, Limits())
        finally:
            os.close(writer)
        trial.starting.close()
        try:
            await _attended(trial, process)
        finally:
            trial.exit = await process.stop(trial.host.settings.experiments.grace)
            trial.reservation.release_compute()
            trial.describe_end()
    finally:
        await draining
    if trouble := environment.not_started(trial.exit.code, trial.output.since(begun, BEGINNING)):
        raise trouble
    return outcome_of(trial.exit)


async def _attended(trial: Trial, process: Process) -> None:
    """Wait for the process beside everything that goes on while it runs."""
    async with asyncio.TaskGroup() as group:
        beside = [group.create_task(task) for task in _beside(trial, process)]
        await process.wait()
        for task in beside:
            task.cancel()


def _beside(trial: Trial, process: Process) -> list[Coroutine[None, None, None]]:
    resources = trial.request.resources
    found = [*checkpoints(trial), *samples(trial, process)]
    if resources.ram:
        found.append(_memory(process, resources.ram))
    if resources.hdd:
        found.append(_disk(trial, process, resources.hdd))
    return found


async def _memory(process: Process, limit: int) -> None:
    """`ram`, over the whole tree. No grace: it would go on growing."""
    peak = await memory_watch(process, limit)
    process.kill()
    raise Halt(
        of_reason(
            Reason.OUT_OF_MEMORY, f"It asked for {format_size(limit)} (ram) and had {format_size(peak)} in use."
        )
    )


async def _disk(trial: Trial, process: Process, limit: int) -> None:
    """`hdd`. No grace: it would go on writing."""
    try:
        await watchers.disk(trial.directory, limit)
    except Halt:
        process.kill()
        raise


def arguments(request: Request) -> tuple[str, ...]:
    """What follows the interpreter: the script (or `-m`) and its arguments; the arguments alone for the program of
    a container."""
    script = request.experiment.filename
    return (*([] if script is None else [script]), *script_arguments(request.experiment.args))


def variables(trial: Trial) -> dict[str, str]:
    """The script's whole environment, less what its Python environment adds."""
    own = trial.host.variables
    public = {name: value for name, value in own.items() if not is_secret_name(name)}
    cores = str(max(1, trial.request.resources.cpus))
    return {
        **(contained_environment(trial.host.inherited) if is_contained(trial.request) else trial.host.inherited),
        "OMP_NUM_THREADS": cores,
        "MKL_NUM_THREADS": cores,
        "PYTHONUNBUFFERED": "1",
        "AWS_SDK_LOAD_CONFIG": "1",
        **expand(trial.request.environment_variables, public),
        "STUDIOML_HOME": str(trial.host.settings.places.working_dir),
        "STUDIOML_EXPERIMENT": trial.directory.name,
        "CUDA_VISIBLE_DEVICES": "-1",
        "NVIDIA_VISIBLE_DEVICES": "-1",
        ATTEMPT_VARIABLE: trial.host.premises.tag(trial.directory),
    }


def outcome_of(end: Exit) -> Outcome:
    """The script's own end as an outcome."""
    if end.code == 0:
        return Outcome(Reason.COMPLETED, RULES[Reason.COMPLETED].sentence, exit_code=0)
    how = f"exit code {end.code}" if end.code is not None else f"signal {end.signal}"
    sentence = f"The script failed with {how}; its last lines of output say why."
    return Outcome(Reason.SCRIPT_FAILED, sentence, exit_code=end.code, signal=end.signal)
