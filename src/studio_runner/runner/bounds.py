"""What one experiment may use while it runs, who holds it to that, and what it comes to when it wants more.

The kernel does where there are control groups; what it does not limit is watched. Disk is always watched.
"""

from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace

from studio_runner.errors import Reason
from studio_runner.messages.units import format_size
from studio_runner.process.base import Exit
from studio_runner.process.cgroups.files import Share
from studio_runner.process.cgroups.group import Breach, Group
from studio_runner.process.cgroups.hierarchy import MEMORY
from studio_runner.process.limits import OOM_SCORE, OOM_SCORE_UNBOUND, Limits, memory_watch
from studio_runner.process.spawn import Process
from studio_runner.runner import watchers
from studio_runner.runner.halt import Halt
from studio_runner.runner.outcome import Outcome, of_reason
from studio_runner.runner.trial import Trial


class Bounds:
    """Of one attempt's run; made by `bounds`."""

    def __init__(self, trial: Trial, group: Group) -> None:
        self._trial, self._group = trial, group
        self._resources = trial.request.resources

    def limits(self) -> Limits:
        """What the script starts with."""
        named = self._resources.ram > 0
        return Limits(oom_score=OOM_SCORE if named else OOM_SCORE_UNBOUND, groups=self._group.membership)

    def beside(self, process: Process) -> list[Coroutine[None, None, None]]:
        """What has to go on while the script runs; each ends the process and raises `Halt`."""
        found = [self._held(process)]
        if self._resources.ram and not self._group.holds(MEMORY):
            found.append(self._memory(process, self._resources.ram))
        if self._resources.hdd:
            found.append(self._disk(process, self._resources.hdd))
        return found

    def measured(self, end: Exit) -> Exit:
        """With the peak of the whole group where the kernel keeps it, cached files among it."""
        peak = self._group.counters().peak
        return replace(end, peak_memory=peak) if peak else end

    def explained(self, outcome: Outcome) -> Outcome:
        """A script that reached a limit has not ended by itself, whatever it says: it may have ended sooner than
        anybody heard of it."""
        breach = self._group.look()
        if breach is None:
            return outcome
        found = self._of_breach(breach)
        return replace(found, exit_code=outcome.exit_code, signal=outcome.signal)

    async def _held(self, process: Process) -> None:
        """The kernel holds the group to its limits, and says when one was reached."""
        breach = await self._group.breached()
        process.kill()
        raise Halt(self._of_breach(breach))

    async def _memory(self, process: Process, limit: int) -> None:
        """`ram`, over the whole tree. No grace: it would go on growing."""
        peak = await memory_watch(process, limit)
        process.kill()
        raise Halt(of_reason(Reason.OUT_OF_MEMORY, _wanted(limit, peak)))

    async def _disk(self, process: Process, limit: int) -> None:
        """`hdd`. No grace: it would go on writing."""
        try:
            await watchers.disk(self._trial.directory, limit)
        except Halt:
            process.kill()
            raise

    def _of_breach(self, breach: Breach) -> Outcome:
        if breach is Breach.PROCESSES:
            return of_reason(
                Reason.PROCESSES_EXCEEDED, f"The limit is {self._group.share.processes} at once (max_processes)."
            )
        peak = self._group.counters().peak
        if self._resources.ram:
            return of_reason(Reason.OUT_OF_MEMORY, _wanted(self._resources.ram, peak))
        return of_reason(
            Reason.OUT_OF_MEMORY,
            f"It named no limit (ram) and had {format_size(peak)} in use when all experiments together had taken "
            f"what this machine gives them.",
        )


def _wanted(limit: int, peak: int) -> str:
    return f"It asked for {format_size(limit)} (ram) and had {format_size(peak)} in use."


@asynccontextmanager
async def bounds(trial: Trial) -> AsyncIterator[Bounds]:
    """The bounds of this attempt, and its control group until the context ends: then no process is in it."""
    resources, machine = trial.request.resources, trial.host.settings.machine
    share = Share(
        memory=resources.ram,
        cores=resources.cpus,
        quota=max(1, resources.cpus) if machine.cpu_quota else 0,
        processes=machine.max_processes,
    )
    group = trial.host.groups.create(trial.directory.name, share)
    try:
        yield Bounds(trial, group)
    finally:
        await group.remove()
