"""What one experiment may use while it runs, who holds it to that, and what it comes to when it wants more.

The kernel does where there are control groups; what it does not limit is watched. Disk is always watched.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace

from studio_runner.errors import Reason
from studio_runner.messages.units import format_size
from studio_runner.process.base import Exit
from studio_runner.process.cgroups.files import Share
from studio_runner.process.cgroups.group import Breach, Group
from studio_runner.process.cgroups.hierarchy import MEMORY, PIDS
from studio_runner.process.limits import OOM_SCORE, OOM_SCORE_UNBOUND, Limits, disk_usage, most_processes
from studio_runner.process.spawn import Process
from studio_runner.runner.halt import Halt
from studio_runner.runner.outcome import Outcome, of_reason
from studio_runner.runner.trial import Trial


@asynccontextmanager
async def bounds(trial: Trial) -> AsyncIterator["Bounds"]:
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


class Bounds:
    """Of one attempt's run; made by `bounds`."""

    def __init__(self, trial: Trial, group: Group) -> None:
        self._trial, self._group = trial, group
        resources = trial.request.resources
        self._ram, self._hdd = resources.ram, resources.hdd
        self._processes = trial.host.settings.machine.max_processes

    def limits(self) -> Limits:
        """What the script starts with.

        No file of its can be larger than what it may have on disk and in memory together: files in shared memory
        count as files there.
        """
        memory = self._ram or self._trial.host.ledger.total.memory
        return Limits(
            file_size=self._hdd + memory if self._hdd else 0,
            processes=0 if self._group.holds(PIDS) else most_processes(),
            oom_score=OOM_SCORE if self._ram else OOM_SCORE_UNBOUND,
            groups=self._group.membership,
        )

    def beside(self, process: Process) -> list[Coroutine[None, None, None]]:
        """What has to go on while the script runs. Each kills the tree and raises `Halt`: no grace, it would go on
        taking."""
        found = [self._held(process)]
        ram = 0 if self._group.holds(MEMORY) else self._ram
        processes = 0 if self._group.holds(PIDS) else self._processes
        if ram or processes:
            found.append(self._watched(process, ram, processes))
        if self._hdd:
            found.append(self._disk(process))
        return found

    def measured(self, end: Exit) -> Exit:
        """With the peak of the whole group where the kernel keeps it, cached files among it."""
        peak = self._group.counters().peak
        return replace(end, peak_memory=peak) if peak else end

    async def explained(self, outcome: Outcome) -> Outcome:
        """A script that reached a limit has not ended by itself, whatever it says: it may have ended sooner than
        anybody heard of it."""
        breach = self._group.look()
        if breach:
            found: Outcome | None = self._of_breach(breach)
        else:
            found = await self._full(outcome) if self._hdd else None
        return replace(found, exit_code=outcome.exit_code, signal=outcome.signal) if found else outcome

    async def _held(self, process: Process) -> None:
        """The kernel holds the group to its limits, and says when one was reached."""
        breach = await self._group.breached()
        process.kill()
        raise Halt(self._of_breach(breach))

    async def _watched(self, process: Process, ram: int, processes: int) -> None:
        """What the kernel does not hold, over the whole tree."""
        found = await self._trial.host.trees.excess(process, ram, processes)
        process.kill()
        if processes and found.processes > processes:  # a bomb soon has too much of everything
            raise Halt(self._too_many())
        raise Halt(of_reason(Reason.OUT_OF_MEMORY, _wanted(ram, "ram", found.memory, "in use")))

    async def _disk(self, process: Process) -> None:
        used = await self._trial.host.disks.excess(self._trial.directory, process, self._hdd)
        process.kill()
        raise Halt(self._too_large(used))

    async def _full(self, outcome: Outcome) -> Outcome | None:
        """Of a failure: it could not write on because its disk was used up, or a file too large."""
        if outcome.signal == signal.SIGXFSZ:
            return of_reason(
                Reason.DISK_EXCEEDED, f"It asked for {format_size(self._hdd)} (hdd), and one file was larger."
            )
        if outcome.reason is not Reason.SCRIPT_FAILED:
            return None
        used = await asyncio.to_thread(disk_usage, self._trial.directory)
        return self._too_large(used) if used > self._hdd else None

    def _of_breach(self, breach: Breach) -> Outcome:
        if breach is Breach.PROCESSES:
            return self._too_many()
        peak = self._group.counters().peak
        if self._ram:
            return of_reason(Reason.OUT_OF_MEMORY, _wanted(self._ram, "ram", peak, "in use"))
        return of_reason(
            Reason.OUT_OF_MEMORY,
            f"It named no limit (ram) and had {format_size(peak)} in use when all experiments together had taken "
            f"what this machine gives them.",
        )

    def _too_many(self) -> Outcome:
        return of_reason(
            Reason.PROCESSES_EXCEEDED, f"This machine allows it {self._processes} at once (machine.max_processes)."
        )

    def _too_large(self, used: int) -> Outcome:
        return of_reason(Reason.DISK_EXCEEDED, _wanted(self._hdd, "hdd", used, "on disk"))


def _wanted(limit: int, name: str, found: int, where: str) -> str:
    return f"It asked for {format_size(limit)} ({name}) and had {format_size(found)} {where}."
