"""What holds experiments to what they asked for."""

import sys
from collections.abc import Iterator

from studio_runner.cli.checkup.finding import Finding, Here, ok, warning
from studio_runner.messages.units import format_size
from studio_runner.process.cgroups.hierarchy import CPU, MEMORY, PIDS, Found, find, switched_off

_WITHOUT = {
    MEMORY: "watched, not held: what grows fast is ended a moment late, when a neighbour may have been harmed",
    CPU: "none: experiments get cores by the number of their threads",
    PIDS: "watched, not held: what forks fast is ended a moment late",
}
_NAMES = {MEMORY: "memory", CPU: "cores", PIDS: "processes"}


def limits(here: Here) -> Iterator[Finding]:
    """Memory, cores, processes and disk: by whom each is limited, and the mend where it is not the kernel."""
    from studio_runner.machine.inventory import inventory
    from studio_runner.process.cgroups.groups import room_for_all

    machine = here.settings.machine
    found = switched_off() if machine.cgroups == "off" else find()
    held = {
        MEMORY: "ram, without swap; nobody else is harmed",
        CPU: "cpus, as a hard quota" if machine.cpu_quota else "cpus, as a share; idle cores go to who wants them",
        PIDS: f"{machine.max_processes} (threads count) for each experiment",
    }
    if sys.platform != "linux":
        yield warning("limits", "control groups are Linux's; experiments are watched here", "Use Linux.")
        return
    for controller, name in _NAMES.items():
        subject = f"limit on {name}"
        if controller == PIDS and not machine.max_processes:
            yield warning(
                subject, "none: switched off (machine.max_processes)", "Set --max-processes, 4096 for example."
            )
        elif hierarchy := found.holding(controller):
            where = f"control groups version {hierarchy.version}, in {hierarchy.base}"
            yield ok(subject, f"held by the kernel ({where}): {held[controller]}")
        else:
            yield _watched(subject, controller, found)
    if found.holding(MEMORY):
        together = room_for_all(found, inventory(machine, here.settings.places.working_dir).memory)
        yield ok("limit on all", f"{format_size(together)} memory for all experiments; the rest is the runner's")
    yield ok("limit on disk", "hdd is watched by scanning, and by the kernel for a single file")


def _watched(subject: str, controller: str, found: Found) -> Finding:
    obstacle = found.obstacles[controller]
    return warning(subject, f"{_WITHOUT[controller]} ({obstacle.sentence})", obstacle.mend)
