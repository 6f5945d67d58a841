"""Packing a directory into the file store and unpacking it again, beside `tar` doing the same.

Both write into the page cache of the same disk. Our put also syncs the archive, which `tar` does not; the figure
of `tar` followed by `sync` is in the detail.
"""

import asyncio
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.result import Result
from studio_runner.messages.artifact import Artifact
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.files import FileStore
from studio_runner.storage.transfer import Upload, fetch

ROUNDS = 5
KEY = "archive.tar"
GIB = 1 << 30


def run(scale: float) -> Iterator[Result]:
    with tempfile.TemporaryDirectory(prefix="bench-archives-") as made:
        root = Path(made)
        large = root / "large"
        _large(large, int(GIB * scale))
        yield from _measured(root, large, f"{scale:g} GiB", 1.5)
        shutil.rmtree(large)
        small = root / "small"
        files = _small(small, int(20_000 * scale))
        yield from _measured(root, small, f"{files:,} small files", 3.0)


def _large(directory: Path, size: int) -> None:
    directory.mkdir()
    piece = random.Random(1).randbytes(1 << 20)
    with (directory / "large").open("wb") as file:
        for _ in range(size >> 20):
            file.write(piece)


def _small(directory: Path, count: int) -> int:
    """A hundred to a directory, of 50 to 2,000 bytes."""
    source = random.Random(1)
    for number in range(count):
        path = directory / f"part-{number // 100:03}" / f"file-{number:05}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.randbytes(50 + number % 100 * 20))
    return count


def _measured(root: Path, source: Path, what: str, factor: float) -> Iterator[Result]:
    """Rounds take turns, so that what else the machine does hits both alike."""
    work = _Work(root, source)
    times: dict[str, list[float]] = {
        name: [] for name in ("tar pack", "tar pack, synced", "pack", "tar unpack", "unpack")
    }
    steps: dict[str, Callable[[], None]] = {
        "tar pack": work.tar_pack,
        "tar pack, synced": work.tar_pack_synced,
        "pack": work.pack,
        "tar unpack": work.tar_unpack,
        "unpack": work.unpack,
    }
    for round_number in range(ROUNDS + 1):
        for name, step in steps.items():
            work.clear()
            started = time.perf_counter()
            step()
            if round_number:  # the first one warms the page cache
                times[name].append(time.perf_counter() - started)
    yield _result(f"pack {what}", times["pack"], times["tar pack"], factor, synced=times["tar pack, synced"])
    yield _result(f"unpack {what}", times["unpack"], times["tar unpack"], factor)


class _Work:
    """The same archive made and unpacked by both."""

    def __init__(self, root: Path, source: Path) -> None:
        self._source = source
        self._archive = root / "tar.tar"
        self._target = root / "target"
        self._store = FileStore(root / "store")
        self._artifact = Artifact(label="bench", qualified=f"file:///{KEY}", mutable=True, unpack=True)

    def clear(self) -> None:
        shutil.rmtree(self._target, ignore_errors=True)

    def tar_pack(self) -> None:
        subprocess.run(["tar", "-cf", self._archive, "-C", self._source, "."], check=True)

    def tar_pack_synced(self) -> None:
        self.tar_pack()
        subprocess.run(["sync", self._archive], check=True)

    def pack(self) -> None:
        assert asyncio.run(Upload(self._artifact, self._store, KEY, self._source).upload())

    def tar_unpack(self) -> None:
        self._target.mkdir()
        subprocess.run(["tar", "-xf", self._archive, "-C", self._target], check=True)

    def unpack(self) -> None:
        assert asyncio.run(fetch(self._artifact, self._store, KEY, self._target, DiskBudget(None)))


def _result(
    name: str, ours: list[float], bare: list[float], factor: float, synced: list[float] | None = None
) -> Result:
    value, limit = statistics.median(ours), statistics.median(bare)
    detail = {"min": min(ours), "median": value, "max": max(ours), "n": float(len(ours)), "bare min": min(bare)}
    if synced:
        detail["bare, synced"] = statistics.median(synced)
    return Result(
        name=name,
        value=value,
        unit="s",
        bare=limit,
        bare_name="tar",
        ratio=value / limit,
        target=f"<= {factor:g} x tar",
        met=value <= factor * limit,
        detail=detail,
    )
