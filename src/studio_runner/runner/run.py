"""The run stage: the script, its output, and what is looked after while it runs."""

import asyncio
import os
from collections.abc import Coroutine

from studio_runner.environments.base import Environment
from studio_runner.errors import Reason
from studio_runner.machine.gpus.visible import variables as visible_cards
from studio_runner.messages.arguments import script_arguments
from studio_runner.messages.request import Request
from studio_runner.messages.variables import expand
from studio_runner.process.base import Command, Exit
from studio_runner.process.environ import ATTEMPT_VARIABLE, contained_environment, public_environment
from studio_runner.process.spawn import Process
from studio_runner.runner.bounds import Bounds, bounds
from studio_runner.runner.checkpoint import checkpoints
from studio_runner.runner.contained import is_contained
from studio_runner.runner.metrics import samples
from studio_runner.runner.outcome import RULES, Outcome
from studio_runner.runner.prepare import WORKSPACE
from studio_runner.runner.trial import Trial

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
"""Libraries take every core of the machine unless these tell them how many there are for them."""

BEGINNING = 8192
"""Bytes of output by which a container's runtime is told from the script."""


async def run_script(trial: Trial, environment: Environment) -> Outcome:
    """Run the script to its end; when cancelled, stop its whole tree first. `trial.exit` is set either way."""
    command = environment.command(arguments(trial.request), variables(trial), trial.directory / WORKSPACE)
    trial.describe_start(environment)
    begun = trial.output.size
    async with bounds(trial) as held:
        end = await _run(trial, command, held)
        outcome = await held.explained(outcome_of(end))
    beginning = trial.output.since(begun, BEGINNING)
    if outcome.reason is Reason.SCRIPT_FAILED and (trouble := environment.not_started(end.code, beginning)):
        raise trouble
    return outcome


async def _run(trial: Trial, command: Command, held: Bounds) -> Exit:
    reader, writer = os.pipe()
    draining = asyncio.create_task(trial.output.drain(reader), name="drain output")
    try:
        try:
            trial.process = process = await trial.host.spawner.spawn(command, writer, held.limits())
        finally:
            os.close(writer)
        trial.starting.close()
        try:
            await _attended(trial, process, held)
        finally:
            trial.exit = held.measured(await process.stop(trial.host.settings.experiments.grace))
            trial.reservation.release_compute()
            trial.describe_end()
    finally:
        await draining
    return trial.exit


async def _attended(trial: Trial, process: Process, held: Bounds) -> None:
    """Wait for the process beside everything that goes on while it runs."""
    beside: list[Coroutine[None, None, None]] = [
        *checkpoints(trial),
        *samples(trial, process),
        *held.beside(process),
    ]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in beside]
        await process.wait()
        for task in tasks:
            task.cancel()


def arguments(request: Request) -> tuple[str, ...]:
    """What follows the interpreter: the script (or `-m`) and its arguments; the arguments alone for the program of
    a container."""
    script = request.experiment.filename
    return (*([] if script is None else [script]), *script_arguments(request.experiment.args))


def variables(trial: Trial) -> dict[str, str]:
    """The script's whole environment, less what its Python environment adds."""
    cores = str(max(1, trial.request.resources.cpus))
    return {
        **(contained_environment(trial.host.inherited) if is_contained(trial.request) else trial.host.inherited),
        **dict.fromkeys(THREAD_VARIABLES, cores),
        "PYTHONUNBUFFERED": "1",
        "AWS_SDK_LOAD_CONFIG": "1",
        **expand(trial.request.environment_variables, public_environment(trial.host.variables)),
        "STUDIOML_HOME": str(trial.host.settings.places.working_dir),
        "STUDIOML_EXPERIMENT": trial.directory.name,
        **visible_cards(trial.reservation.gpus),
        ATTEMPT_VARIABLE: trial.host.premises.tag(trial.directory),
    }


def outcome_of(end: Exit) -> Outcome:
    """The script's own end as an outcome."""
    if end.code == 0:
        return Outcome(Reason.COMPLETED, RULES[Reason.COMPLETED].sentence, exit_code=0)
    how = f"exit code {end.code}" if end.code is not None else f"signal {end.signal}"
    sentence = f"The script failed with {how}; its last lines of output say why."
    return Outcome(Reason.SCRIPT_FAILED, sentence, exit_code=end.code, signal=end.signal)
