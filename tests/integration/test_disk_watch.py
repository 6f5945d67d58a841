"""What experiments have on disk, watched while real processes write."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from studio_runner.process.base import Command
from studio_runner.process.diskwatch import DiskWatch, removed_files
from studio_runner.process.limits import Limits
from studio_runner.process.spawn import Process, Spawner

MB = 1 << 20
UNLIMITED = Limits()
PYTHON = (sys.executable, "-I", "-S", "-c")
ONE_FILE = "open('file', 'wb').write(bytes(40 << 20)); time.sleep(600)"
MANY_FILES = """
for number in range(6000):
    os.makedirs(f"{number % 50}", exist_ok=True)
    open(f"{number % 50}/{number}", "wb").write(b"x" * 5000)
time.sleep(600)
"""
NAMELESS = """
file = open("file", "wb")
os.unlink("file")
file.write(bytes(40 << 20))
file.flush()
time.sleep(600)
"""
SLOWLY = """
for number in range(100):
    open(str(number), "wb").write(bytes(1 << 20))
    time.sleep(0.02)
time.sleep(600)
"""
SPARSE = "open('file', 'wb').truncate(1 << 40); open('done', 'w'); time.sleep(600)"


@pytest.fixture
async def spawner() -> AsyncIterator[Spawner]:
    async with Spawner() as opened:
        yield opened


@pytest.fixture
async def watch() -> AsyncIterator[DiskWatch]:
    async with DiskWatch() as opened:
        yield opened


async def start(spawner: Spawner, script: str, directory: Path, limits: Limits = UNLIMITED) -> Process:
    directory.mkdir()
    output = os.open(os.devnull, os.O_WRONLY)
    try:
        command = Command((*PYTHON, f"import os, time\n{script}"), {}, directory)
        return await spawner.spawn(command, output, limits)
    finally:
        os.close(output)


@pytest.mark.parametrize(
    "script", [ONE_FILE, MANY_FILES, NAMELESS, SLOWLY], ids=["one", "many", "nameless", "slowly"]
)
async def test_a_directory_that_grew_too_large_is_noticed(spawner, watch, tmp_path, script):
    process = await start(spawner, script, tmp_path / "attempt")
    async with asyncio.timeout(60):
        assert await watch.excess(tmp_path / "attempt", process, 20 * MB) > 20 * MB
    await process.stop(0)


async def test_a_sparse_file_counts_for_what_it_holds(spawner, watch, tmp_path):
    process = await start(spawner, SPARSE, tmp_path / "attempt")
    watching = asyncio.create_task(watch.excess(tmp_path / "attempt", process, 20 * MB))
    async with asyncio.timeout(60):
        while not (tmp_path / "attempt" / "done").exists():
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.6)  # two looks and more
    assert not watching.done()
    watching.cancel()
    await process.stop(0)


async def test_what_others_write_does_not_count(spawner, watch, tmp_path):
    process = await start(spawner, "time.sleep(600)", tmp_path / "attempt")
    watching = asyncio.create_task(watch.excess(tmp_path / "attempt", process, 20 * MB))
    (tmp_path / "other").write_bytes(bytes(40 * MB))
    await asyncio.sleep(0.6)
    assert not watching.done()
    watching.cancel()
    await process.stop(0)


def test_a_removed_file_counts_while_it_is_open(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.write(bytes(MB))
        file.flush()
        assert removed_files(tmp_path, [os.getpid()]) == 0
        (tmp_path / "file").unlink()
        assert removed_files(tmp_path, [os.getpid(), os.getpid()]) >= MB
    assert removed_files(tmp_path, [os.getpid()]) == 0


async def test_one_file_is_stopped_by_the_kernel(spawner, tmp_path):
    script = """
try:
    open("file", "wb").write(bytes(40 << 20))
except OSError as error:
    os._exit(error.errno)
"""
    process = await start(spawner, script, tmp_path / "attempt", Limits(file_size=20 * MB))
    assert (await process.wait()).code == 27
    assert (tmp_path / "attempt" / "file").stat().st_size == 20 * MB
