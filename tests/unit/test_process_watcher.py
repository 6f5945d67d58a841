"""A watcher that fails tells those who rely on it."""

import asyncio

import pytest

from studio_runner.process import diskwatch
from studio_runner.process.diskwatch import DiskWatch


class NoTree:
    def pids(self):
        return []


async def test_whoever_waits_hears_of_a_watcher_that_failed(tmp_path, monkeypatch, caplog):
    def broken(_places):
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr(diskwatch, "_free", broken)
    async with DiskWatch() as disks, asyncio.timeout(60):
        with pytest.raises(RuntimeError, match="nobody thought of this"):
            await disks.excess(tmp_path, NoTree(), 1000)
        with pytest.raises(RuntimeError):  # and whoever comes later
            await disks.excess(tmp_path, NoTree(), 1000)
    assert "DiskWatch failed" in caplog.text
