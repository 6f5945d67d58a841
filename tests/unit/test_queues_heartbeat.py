import json
import logging
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from studio_runner.queues.complaints import Complaints
from studio_runner.queues.heartbeat import Heartbeat, ProcessMark, Roster

LEASE = 9.0
ELSEWHERE = ProcessMark("other", "another-boot", "pid:[1]", 1, "1")


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def roster(tmp_path, clock):
    return Roster(tmp_path, "me", LEASE, clock)


def beats(tmp_path, owner, mark=ELSEWHERE, modified=1):
    path = tmp_path / owner
    path.write_text(json.dumps(asdict(mark)))
    os.utime(path, ns=(modified, modified))


def watch(roster, clock, seconds, claimants=()):
    """Look as often as a runner does."""
    dead = roster.dead(claimants)
    until = clock.now + seconds
    while clock.now < until:
        clock.now += min(1.0, until - clock.now)
        dead = roster.dead(claimants)
    return dead


def test_a_runner_elsewhere_is_dead_after_a_lease_without_a_beat(tmp_path, roster, clock):
    beats(tmp_path, "other")
    assert watch(roster, clock, LEASE - 0.1) == set()
    assert watch(roster, clock, 0.2) == {"other"}


def test_a_beat_starts_the_lease_anew(tmp_path, roster, clock):
    beats(tmp_path, "other")
    watch(roster, clock, LEASE - 1)
    beats(tmp_path, "other", modified=2)
    assert watch(roster, clock, LEASE - 1) == set()
    assert watch(roster, clock, 2) == {"other"}


@pytest.mark.parametrize("modified", [1, 4_000_000_000 * 10**9])
def test_the_clocks_of_others_do_not_matter(tmp_path, roster, clock, modified):
    beats(tmp_path, "other", modified=modified)
    assert watch(roster, clock, LEASE - 0.1) == set()
    assert watch(roster, clock, 0.2) == {"other"}


def test_time_in_which_the_observer_was_stopped_does_not_count(tmp_path, roster, clock):
    beats(tmp_path, "other")
    watch(roster, clock, 1)
    clock.now += 3600
    assert roster.dead(()) == set()
    assert watch(roster, clock, LEASE) == {"other"}


def test_a_claim_without_a_heartbeat_file_gets_a_lease_too(roster, clock):
    assert watch(roster, clock, LEASE - 0.1, {"ghost"}) == set()
    assert watch(roster, clock, 0.2, {"ghost"}) == {"ghost"}


def test_damaged_heartbeat_files_are_judged_by_the_lease(tmp_path, roster, clock):
    for number, content in enumerate([b"", b"\xff", b"[]", b'"x"', b"{}", b'{"pid": 1}', b"7"]):
        (tmp_path / f"damaged{number}").write_bytes(content)
    assert watch(roster, clock, LEASE - 0.1) == set()
    assert len(watch(roster, clock, 0.2)) == 7


def test_the_own_heartbeat_is_not_judged(tmp_path, roster, clock):
    beats(tmp_path, "me")
    assert watch(roster, clock, 3 * LEASE, {"me"}) == set()


def test_unfinished_heartbeat_files_are_no_runners(tmp_path, roster, clock):
    beats(tmp_path, ".other")
    assert watch(roster, clock, 3 * LEASE) == set()


def test_nobody_is_dead_where_nobody_was(tmp_path, clock):
    assert Roster(tmp_path / "nowhere", "me", LEASE, clock).dead(()) == set()


def test_a_living_process_that_beats_is_alive(tmp_path, roster):
    beats(tmp_path, "sibling", ProcessMark.own())
    assert roster.dead(()) == set()


def test_a_living_process_that_does_not_beat_is_dead_after_a_lease(tmp_path, roster, clock):
    beats(tmp_path, "stopped", ProcessMark.own())
    assert watch(roster, clock, LEASE) == {"stopped"}


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="only /proc tells that a process is gone")


def start_of(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


@needs_proc
def test_a_process_that_ended_is_gone_at_once(tmp_path, roster):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    here = ProcessMark.own()
    start = start_of(child.pid)
    beats(tmp_path, "child", replace(here, pid=child.pid, start=start))
    assert roster.dead(()) == set()
    child.communicate()
    assert roster.dead(()) == {"child"}


@needs_proc
def test_a_zombie_is_gone(tmp_path, roster):
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    start = start_of(child.pid)
    beats(tmp_path, "child", replace(ProcessMark.own(), pid=child.pid, start=start))
    assert roster.dead(()) == {"child"}
    child.wait()


@needs_proc
def test_another_process_under_the_same_number_is_not_the_runner(tmp_path, roster):
    beats(tmp_path, "earlier", replace(ProcessMark.own(), start="12"))
    assert roster.dead(()) == {"earlier"}


@needs_proc
@pytest.mark.parametrize("change", [{"namespace": "pid:[1]"}, {"boot": "another"}])
def test_processes_that_cannot_be_seen_from_here_are_judged_by_the_lease(tmp_path, roster, clock, change):
    """Two containers of one machine share its boot, not its process numbers."""
    beats(tmp_path, "neighbour", replace(ProcessMark.own(), start="12", **change))
    assert watch(roster, clock, LEASE - 0.1) == set()
    assert watch(roster, clock, 0.2) == {"neighbour"}


@pytest.fixture
def heartbeat(tmp_path):
    return Heartbeat(tmp_path / "runners", "me", Complaints(logging.getLogger("test")))


def test_a_beat_is_seen_by_others(tmp_path, heartbeat, clock):
    heartbeat.start()
    observer = Roster(tmp_path / "runners", "observer", LEASE, clock)
    for _ in range(10):
        assert watch(observer, clock, LEASE - 1) == set()
        os.utime(tmp_path / "runners" / "me", ns=(1, 1))
        observer.dead(())
        heartbeat.beat()


def test_a_heartbeat_that_was_removed_comes_back(tmp_path, heartbeat):
    heartbeat.start()
    (tmp_path / "runners" / "me").unlink()
    heartbeat.beat()
    assert json.loads((tmp_path / "runners" / "me").read_text())["pid"] == os.getpid()


def test_a_heartbeat_that_ends_leaves_nothing(tmp_path, heartbeat):
    heartbeat.start()
    heartbeat.stop()
    heartbeat.stop()
    assert list((tmp_path / "runners").iterdir()) == []


def test_a_failing_heartbeat_is_said_once_and_again_after_it_recovered(tmp_path, heartbeat, caplog):
    runners = tmp_path / "runners"
    runners.write_text("in the way")
    heartbeat.beat()
    heartbeat.beat()
    assert caplog.text.count("heartbeat failed") == 1
    runners.unlink()
    heartbeat.beat()
    assert (runners / "me").exists()
    (runners / "me").unlink()
    runners.rmdir()
    runners.write_text("in the way again")
    heartbeat.beat()
    assert caplog.text.count("heartbeat failed") == 2


@pytest.mark.parametrize("field", ["host", "boot", "namespace", "pid", "start"])
@pytest.mark.parametrize("value", [None, [], {}, True, "\0", "../..", 1.5])
def test_a_heartbeat_of_this_machine_with_something_odd_in_it_proves_nobody_dead(
    roster, clock, tmp_path, field, value
):
    mark = {**asdict(ProcessMark.own()), field: value}
    if isinstance(value, str) and field != "pid":
        mark["boot"] = "another-boot"
    (tmp_path / "odd").write_text(json.dumps(mark))
    assert roster.dead([]) == set()


def test_a_heartbeat_nested_deep_is_none(roster, tmp_path):
    (tmp_path / "odd").write_bytes(b"[" * 4096)
    assert roster.dead([]) == set()


def test_a_pipe_in_the_place_of_a_heartbeat_keeps_nobody_waiting(roster, tmp_path):
    os.mkfifo(tmp_path / "odd")
    assert roster.dead([]) == set()
