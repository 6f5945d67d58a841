"""What people are told of the message for which room is held."""

import time
from dataclasses import dataclass
from datetime import datetime

from studio_runner.machine.inventory import Capacity
from studio_runner.machine.need import GpuNeed
from studio_runner.machine.placement import Awaited
from studio_runner.messages.units import format_size


@dataclass(frozen=True)
class Hold:
    """Room of this machine is held free for a message that waits. `since` and `due` are Unix time: `due` is when it
    begins at the latest, None when nobody can know. `left`: how often another message was left for its sake."""

    key: str
    queue: str
    share: Capacity
    gpus: GpuNeed
    since: float
    due: float | None
    left: int
    sentence: str


def hold_of(awaited: Awaited, clock: float) -> Hold:
    """`clock`: what the clock of `awaited` says now."""
    offset = time.time() - clock
    due = None if awaited.due is None else awaited.due + offset
    need = awaited.need
    return Hold(
        key=awaited.key,
        queue=awaited.queue,
        share=need.share,
        gpus=need.gpus,
        since=awaited.since + offset,
        due=due,
        left=awaited.made_way,
        sentence=f"{_share(need.share, need.gpus)} held free for {awaited.key} of {awaited.queue} {_until(due)}",
    )


def _share(share: Capacity, gpus: GpuNeed) -> str:
    parts = [f"{share.cores} cores" if share.cores != 1 else "1 core"]
    if share.memory:
        parts.append(f"{format_size(share.memory)} memory")
    if share.disk:
        parts.append(f"{format_size(share.disk)} disk")
    if gpus:
        parts.append(f"GPUs ({max(1, gpus.cards)})")
    return ", ".join(parts)


def _until(due: float | None) -> str:
    if due is None:
        return "until what runs is over, of which not all have a time limit"
    return f"until {datetime.fromtimestamp(due).astimezone():%Y-%m-%d %H:%M:%S} at the latest"
