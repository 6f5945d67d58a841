"""Clearing up after runners that died on this machine: their processes first, then their directories."""

import asyncio
import logging
from pathlib import Path

from studio_runner.process.cgroups.clearing import clear_leftovers
from studio_runner.process.cgroups.hierarchy import Found
from studio_runner.process.sweep import sweep
from studio_runner.runner.directory import clear_dead_runners, leftovers, remove

log = logging.getLogger(__name__)


async def recover(working_dir: Path, groups: Found) -> None:
    """End what dead attempts left running, remove what they left lying. Their messages come back by themselves."""
    await asyncio.to_thread(_recover, working_dir, groups)


def _recover(working_dir: Path, groups: Found) -> None:
    """Control groups first: what is in one cannot get away, whatever it did to its environment."""
    if held := clear_leftovers(groups.hierarchies):
        log.warning("%d processes in control groups of runners that died were still running and were killed", held)
    found = leftovers(working_dir)
    if found:
        log.info("clearing up after %d attempts of runners that died", len(found))
        killed = sweep({leftover.tag for leftover in found})
        if killed:
            log.warning("%d processes of dead attempts were still running and were killed", killed)
    for leftover in found:
        remove(leftover.path)
    clear_dead_runners(working_dir)
