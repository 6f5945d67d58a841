"""What a campaign leaves, run again without the fuzzer: `python -m fuzz.replay NAME ROOM SECONDS`.

Only so can be told what an input really takes, and whether memory or open files are kept: the fuzzer itself slows
the code down, and takes memory for what it has seen.
"""

import gc
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fuzz.target import Target, load

MOST = 2000
"""Inputs that are run again."""
_LEAST = 1000
"""Runs of a round."""
_ROUNDS = 4
_LOOSE = 50
"""Blocks that come and go with Python's own lists of free ones."""


def main() -> None:
    name, room, patience = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    logging.disable(logging.CRITICAL)
    target = load(name)
    paths = [path for kind in ("seeds", "corpus") for path in sorted((room / kind).iterdir())]
    inputs = [path.read_bytes() for path in paths[: MOST * max(1, len(paths) // MOST) : max(1, len(paths) // MOST)]]
    longest, count = _round(target, inputs, patience)
    inputs = inputs[:count] * max(1, _LEAST // count)
    held, blocks, files = _held(), list[float](), list[int]()
    for _ in range(_ROUNDS):
        slowest, count = _round(target, inputs, patience)
        longest = min(longest, slowest)
        before, held = held, _held()
        blocks.append(max(0, held[0] - before[0] - _LOOSE) / count)
        files.append(held[1] - before[1])
    # what is kept for good grows in every round; caches fill, and are full some time
    kept = {"blocks": min(blocks), "files": max(0, min(files)), "longest": longest}
    (room / "replay.json").write_text(json.dumps(kept))


def _round(target: Target, inputs: Sequence[bytes], patience: float) -> tuple[float, int]:
    """Processor seconds of the slowest, and how many there was time for; `patience` is seconds."""
    longest, began, count = 0.0, time.monotonic(), 0
    for data in inputs:
        if time.monotonic() - began > patience:
            break
        before = time.process_time()
        with suppress(Exception):  # the campaign has it among its findings
            target.check(data)
        longest = max(longest, time.process_time() - before)
        count += 1
    return longest, count


def _held() -> tuple[int, int]:
    """Memory blocks of Python's, and open files."""
    gc.collect()
    return sys.getallocatedblocks(), len(os.listdir("/proc/self/fd"))


if __name__ == "__main__":
    main()
