import os
import resource
from pathlib import Path

import pytest

from studio_runner.process.limits import Limits, disk_usage, memory, most_processes, sample
from studio_runner.runner.directory import remove


def test_core_dumps_are_off_and_nothing_else_is_limited_by_default():
    assert Limits().kernel() == [(resource.RLIMIT_CORE, 0, 0)]


def test_a_limit_never_exceeds_the_runners_own():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert (resource.RLIMIT_NOFILE, 10, 10) in Limits(open_files=10).kernel()
    assert (resource.RLIMIT_NOFILE, hard, hard) in Limits(open_files=hard + 1).kernel()


def test_a_sample_counts_live_processes_only():
    usage = sample([os.getpid(), 2**22 + 1])
    assert usage.processes == 1
    assert usage.rss > 1_000_000
    assert usage.cpu_seconds > 0


def test_below_the_limit_memory_is_an_upper_bound_and_above_it_exact():
    bound = memory([os.getpid()], 1 << 50)
    assert 0 < memory([os.getpid()], 1) <= bound * 1.1


def test_what_a_user_may_have_leaves_the_last_process_numbers_to_the_runner():
    assert 0 < most_processes() < int(Path("/proc/sys/kernel/pid_max").read_text())


def test_disk_usage_counts_what_is_allocated_once(tmp_path: Path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "data").write_bytes(b"x" * 1_000_000)
    before = disk_usage(tmp_path)
    assert before >= 1_000_000
    (tmp_path / "again").hardlink_to(tmp_path / "a" / "b" / "data")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert disk_usage(tmp_path) < before + 100_000


def test_a_sparse_file_counts_for_what_it_holds(tmp_path: Path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    assert disk_usage(tmp_path) < 1 << 20


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable for root")
def test_an_unreadable_directory_is_passed_over(tmp_path: Path):
    (tmp_path / "secret").mkdir(mode=0o000)
    assert disk_usage(tmp_path) >= 0


def test_a_missing_directory_is_empty(tmp_path: Path):
    assert disk_usage(tmp_path / "gone") == 0


def test_what_lies_deeper_than_a_path_can_be_long_is_counted(tmp_path):
    """A script may go down step by step, as far as it likes."""
    home = os.getcwd()
    name = "d" * 200
    try:
        os.chdir(tmp_path)
        for _ in range(50):
            os.mkdir(name)
            os.chdir(name)
        Path("large").write_bytes(bytes(1 << 20))
    finally:
        os.chdir(home)
    assert disk_usage(tmp_path) >= 1 << 20
    remove(tmp_path)
