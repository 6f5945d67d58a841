"""What the control groups around a runner leave it, read from trees of files."""

import pytest

from studio_runner.config.settings import MachineSettings
from studio_runner.machine import inventory as module
from studio_runner.machine.confines import Confines, confines
from studio_runner.machine.inventory import inventory

GB = 1 << 30


@pytest.fixture
def groups(tmp_path):
    """Write the files of groups, and the membership of this process; what is found then."""

    def look(membership, files):
        for name, text in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        own = tmp_path / "membership"
        own.write_text(membership)
        return confines(tmp_path / "groups", own)

    return look


def test_the_tightest_limit_of_all_groups_around_counts(groups):
    files = {
        "a/b/memory.max": "max",
        "a/memory.max": "1000",
        "a/b/cpu.max": "400000 100000",
        "a/cpu.max": "150000 100000",
        "cpu.max": "max 100000",
    }
    assert groups("0::/a/b\n", files) == Confines(memory=1000, cores=1.5)


def test_version_1_has_a_tree_per_controller_and_odd_numbers_for_no_limit(groups):
    membership = "5:cpu,cpuacct:/a\n4:memory:/a\n"
    files = {
        "memory/a/memory.limit_in_bytes": "9223372036854771712",
        "cpu/a/cpu.cfs_quota_us": "-1",
        "cpu/a/cpu.cfs_period_us": "100000",
    }
    assert groups(membership, files) == Confines()
    files |= {"memory/a/memory.limit_in_bytes": "4096", "cpu/cpu.cfs_quota_us": "50000",
              "cpu/cpu.cfs_period_us": "100000"}  # fmt: skip
    assert groups(membership, files) == Confines(memory=4096, cores=0.5)


def test_inside_a_container_the_path_may_be_the_hosts(groups):
    assert groups("0::/kubepods/pod1/abc\n", {"memory.max": "2000"}) == Confines(memory=2000)


def test_without_groups_there_is_no_limit(tmp_path):
    assert confines(tmp_path, tmp_path / "none") == Confines()


def test_experiments_are_promised_no_more_than_the_groups_allow(tmp_path, monkeypatch):
    settings = MachineSettings(0, 0, 0, cpu_only=False)
    monkeypatch.setattr(module, "confines", lambda: Confines(memory=GB // 4, cores=0.5))
    found = inventory(settings, tmp_path)
    assert (found.cores, found.memory) == (1, GB // 4)
    monkeypatch.setattr(module, "confines", Confines)
    assert inventory(settings, tmp_path).memory > GB // 4
