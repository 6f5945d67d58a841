"""Clearing up after runners that died on this machine: their processes first, then their directories."""

import asyncio
import logging
from pathlib import Path

from studio_runner.config.settings import Places
from studio_runner.environments.containers.launch import MOUNTERS
from studio_runner.environments.images.provider import FOLDER as IMAGES
from studio_runner.process.cgroups.clearing import clear_leftovers
from studio_runner.process.cgroups.hierarchy import Found
from studio_runner.process.sweep import sweep, sweep_helpers
from studio_runner.runner.directory import clear_dead_runners, clear_notes, leftovers, remove_attempt

log = logging.getLogger(__name__)


async def recover(places: Places, groups: Found) -> None:
    """End what dead attempts left running, remove what they left lying. Their messages come back by themselves."""
    await asyncio.to_thread(_recover, places.working_dir, places.cache_dir / IMAGES, groups)


def _recover(working_dir: Path, images: Path, groups: Found) -> None:
    """Control groups first: what is in one cannot get away, whatever it did to its environment."""
    if held := clear_leftovers(groups.hierarchies):
        log.warning("%d processes in control groups of runners that died were still running and were killed", held)
    found = leftovers(working_dir)
    if found:
        log.info("clearing up after %d attempts of runners that died", len(found))
        killed = sweep({leftover.tag for leftover in found})
        if killed:
            log.warning("%d processes of dead attempts were still running and were killed", killed)
    if orphans := sweep_helpers(MOUNTERS, images.resolve()):
        log.warning("%d programs that mounted images for containers of dead attempts were killed", orphans)
    for leftover in found:
        remove_attempt(leftover.path)
    clear_notes(working_dir)
    clear_dead_runners(working_dir)
