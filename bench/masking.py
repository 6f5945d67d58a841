"""What it costs to find secrets in output: the masker alone, and the way of a script's output to the disk. All in
processor time: what else goes on on the machine does not count."""

import asyncio
import os
import random
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.result import Result
from bench.rig import spread
from studio_runner.messages.masking import Masker
from studio_runner.process.lines import LineScanner
from studio_runner.process.output import Output, Veil

ROUNDS = 7
LINE = b"epoch 12/100 step 3456 loss 0.123456 accuracy 98.76 % lr 1e-4 saved to /data/run/checkpoint-12\n"
PIECE = 1 << 18
LEAST = 200.0
"""MB/s."""
MOST = 3.0
"""Percent of the time that a script's output takes on its way."""
BUILD = 1.0
"""Milliseconds."""
SCRIPT = """
import sys
for number in range({lines}):
    print("step", number, "loss", 1 / (number + 1), "accuracy", number * 0.001)
"""


def run(scale: float) -> Iterator[Result]:
    for count in (0, 10, 60):
        yield _speed(count, int(64 * scale) or 1)
    yield _build(10)
    yield _path(int(100_000 * scale))


def secrets(count: int) -> list[str]:
    """Keys as clouds make them."""
    source = random.Random(count)
    return ["".join(source.choices(string.ascii_letters + string.digits + "+/", k=40)) for _ in range(count)]


def _speed(count: int, megabytes: int) -> Result:
    data = (LINE * (PIECE // len(LINE) + 1))[:PIECE]
    pieces = megabytes * (1 << 20) // PIECE
    masker = Masker(secrets(count))
    masker.look(b"")

    def masked() -> None:
        stream = masker.stream()
        for _ in range(pieces):
            stream.feed(data)

    def copied() -> None:
        for _ in range(pieces):
            bytearray(data)

    series = [pieces * PIECE / 1e6 / _seconds(masked) for _ in range(ROUNDS)]
    value = statistics.median(series)
    bare = statistics.median(pieces * PIECE / 1e6 / _seconds(copied) for _ in range(ROUNDS))
    return Result(
        name=f"masking output, {count} secrets",
        value=value,
        unit="MB/s",
        bare=bare,
        bare_name="a copy",
        target=f">= {LEAST:g} MB/s",
        met=value >= LEAST,
        detail=spread(series),
    )


def _build(count: int) -> Result:
    known = secrets(count)
    series = [_seconds(lambda: Masker(known).look(b"")) * 1e3 for _ in range(10 * ROUNDS)]
    value = statistics.median(series)
    return Result(
        name=f"making a masker of {count} secrets",
        value=value,
        unit="ms",
        target=f"<= {BUILD:g} ms",
        met=value <= BUILD,
        detail=spread(series),
    )


def _path(lines: int) -> Result:
    """A script that does nothing but print, and who takes what it prints; with and without masking in turn."""
    veil = Veil(Masker(secrets(10)))
    found: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "output" / "output"
        path.parent.mkdir()
        for number in range(2 * ROUNDS):
            masking = number % 2 == 0
            found[masking].append(asyncio.run(_drained(path, lines, veil if masking else None)))
    value, bare = statistics.median(found[True]), statistics.median(found[False])
    return Result(
        name="a script's output, on its way to the disk",
        value=value,
        unit="s",
        bare=bare,
        bare_name="without masking",
        ratio=value / bare,
        target=f"<= bare + {MOST:g} %",
        met=value <= bare * (1 + MOST / 100),
        detail=spread(found[True]),
    )


async def _drained(path: Path, lines: int, veil: Veil | None) -> float:
    read, write = os.pipe()
    started = _used()
    with (
        Output(path, 0, LineScanner(lambda _line: None), veil) as output,
        subprocess.Popen([sys.executable, "-c", SCRIPT.format(lines=lines)], stdout=write),
    ):
        os.close(write)
        await output.drain(read)
    return _used() - started


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _used() -> float:
    """Processor time of this process and of those that it has started."""
    return sum(os.times()[:4])
