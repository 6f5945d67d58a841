"""Every way an experiment is ended before its time: limits, wishes, drains, lost leases."""

import io
import json
import shutil
import signal
import tarfile
import time
from textwrap import dedent

import pytest

from studio_runner.testing import installation

SAVES = """
import os, pathlib, signal, sys, time
def save(*_):
    pathlib.Path("../modeldir/model").write_text("saved")
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
pathlib.Path("../modeldir/started").touch()
print("training", flush=True)
time.sleep(600)
"""
STUBBORN = """
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("../modeldir/started").touch()
print("training", flush=True)
while True:
    time.sleep(1)
"""
COUNTED = """
import os, time
with open(os.environ["TALLY"], "a") as tally:
    tally.write(os.environ["STUDIOML_EXPERIMENT"] + "\\n")
if len(open(os.environ["TALLY"]).readlines()) == 1:
    time.sleep(600)
print("done")
"""


@pytest.fixture(scope="module")
def served(cache):
    """One daemon for all tests whose experiments end while it goes on."""
    options = ("--grace", "3s", "--stop-poll", "50ms", "--lease", "3s")
    with installation(cache) as made, made.daemon(*options):
        yield made


class TestByWhatTheRequestAllows:
    """The daemon goes on."""

    pytestmark = pytest.mark.usefixtures("all_is_well")

    @pytest.fixture
    def place(self, served):
        return served

    def test_the_time_limit_stops_a_script_which_may_save_what_it_has(self, place, told):
        key = place.submit({"main.py": SAVES}, max_duration="6s")
        told(key, "timed_out", "max_duration", "6s")
        assert place.files(key, "modeldir")["model"] == b"saved"
        assert "training\nsaved\n" in place.output(key)

    def test_a_script_that_ignores_the_request_to_stop_is_killed(self, place, told):
        key = place.submit({"main.py": STUBBORN}, max_duration="6s")
        told(key, "timed_out")
        assert "training\n" in place.output(key)
        assert "started" in place.files(key, "modeldir")

    def test_the_time_limit_holds_while_the_environment_is_built(self, place, told):
        key = place.submit({"main.py": "print('too late')"}, max_duration="2s", pythonenv=[slow_package(place)])
        told(key, "timed_out")
        assert "too late" not in place.output(key)

    def test_an_experiment_whose_lifetime_is_over_does_not_start(self, place, told):
        config = {"experimentLifetime": "30m"}
        key = place.submit({"main.py": "print('too late')"}, time_added=time.time() - 3600, config=config)
        told(key, "expired", "lifetime")
        assert "too late" not in place.output(key)

    def test_a_lifetime_of_an_unknown_start_never_ends(self, place, told):
        key = place.submit({"main.py": "print('hello')"}, time_added=0, config={"experimentLifetime": "1s"})
        told(key, "completed")

    def test_a_running_experiment_whose_lifetime_ends_is_stopped(self, place, told):
        config = {"experimentLifetime": "1h"}
        key = place.submit({"main.py": SAVES}, time_added=time.time() - 3600 + 8, config=config)
        told(key, "expired")
        assert place.files(key, "modeldir")["model"] == b"saved"

    def test_the_sender_stops_a_running_experiment(self, place, told, until):
        key = place.submit({"main.py": SAVES})
        running(place, key, until)
        ask_to_stop(place, key)
        told(key, "stopped", "on request")
        assert place.files(key, "modeldir")["model"] == b"saved"

    def test_the_sender_stops_an_experiment_whose_environment_is_being_built(self, place, told, until):
        key = place.submit({"main.py": "print('too late')"}, pythonenv=[slow_package(place)])
        until(lambda: "building" in live_output(place, key))
        ask_to_stop(place, key)
        told(key, "stopped")
        assert "too late" not in place.output(key)

    def test_other_words_in_the_status_stop_nothing(self, place, until):
        key = place.submit({"main.py": "import time; time.sleep(1); print('done')"})
        ask_to_stop(place, key, "running")
        assert place.wait(key).ok

    def test_deleting_the_queue_stops_its_experiments(self, place, told, until):
        key, body = place.request(place.workspace({"main.py": SAVES}))
        place.publish(body, "local_doomed")
        running(place, key, until)
        shutil.rmtree(place.queue_root / "local_doomed")
        told(key, "stopped", "queue local_doomed was deleted")
        assert place.files(key, "modeldir")["model"] == b"saved"
        until(lambda: not place.claimed("local_doomed"))

    def test_a_runner_whose_lease_was_taken_stops_and_publishes_nothing(self, place, until):
        key = place.submit({"main.py": SAVES})
        running(place, key, until)
        (claim,) = [path for path in place.claimed() if key.encode() in path.read_bytes()]
        claim.unlink()
        until(lambda: attempt_directory(place, key) is None)
        assert not place.stored(key, "_results").exists()
        assert not place.stored(key, "modeldir").exists()
        assert place.record(key)["status"] == "running"  # what the runner that has it now says counts


class TestByWhoeverRunsTheRunner:
    """The daemon ends."""

    @pytest.fixture
    def submit_counted(self, place, tmp_path):
        def submit(script):
            return place.submit({"main.py": script}, config={"env": {"TALLY": str(tmp_path / "tally")}})

        return submit

    def test_the_first_sigterm_lets_experiments_finish_and_takes_no_other(self, place, until, tmp_path):
        gate = tmp_path / "gate"
        gate.touch()
        waiting = f"import os, time\nwhile os.path.exists({str(gate)!r}): time.sleep(0.01)\nprint('finished')"
        key = place.submit({"main.py": waiting})
        with place.daemon() as daemon:
            until(lambda: "running" in status(place, key))
            daemon.send_signal(signal.SIGTERM)
            until(lambda: "SIGTERM" in place.log())
            other = place.submit({"main.py": "print('never')"})
            gate.unlink()
            assert daemon.wait(120) == 0
        assert place.results(key).ok
        assert place.output(key).endswith("finished\n")
        assert [other.encode() in path.read_bytes() for path in place.waiting()] == [True]
        assert not place.claimed()

    def test_the_second_sigterm_gives_experiments_back_with_what_they_have(self, place, until):
        key = place.submit({"main.py": SAVES})
        with place.daemon() as daemon:
            running(place, key, until)
            daemon.send_signal(signal.SIGTERM)
            until(lambda: "SIGTERM" in place.log())
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(120) == 0
        assert place.files(key, "modeldir")["model"] == b"saved"
        assert "[studio-runner] drained: " in place.output(key)
        assert not place.stored(key, "_results").exists()
        record = place.record(key)
        assert (record["status"], record["studio_runner"]["reason"]) == ("waiting", "drained")
        (message,) = place.waiting()
        assert "tried" not in message.name  # not charged
        assert not list(place.attempts.iterdir())
        assert not place.processes()

    def test_an_experiment_that_was_given_back_runs_again(self, place, until, submit_counted, tmp_path):
        key = submit_counted(COUNTED)
        with place.daemon("--grace", "1s") as daemon:
            until((tmp_path / "tally").exists)
            for number in (signal.SIGINT, signal.SIGTERM):
                daemon.send_signal(number)
                until(lambda name=number.name: name in place.log())
            assert daemon.wait(120) == 0
        with place.daemon("--limit-tasks", "1", "--deliveries", "1") as daemon:
            assert daemon.wait(120) == 0
        results = place.results(key)
        assert (results.reason, results.attempt) == ("completed", 1)
        assert place.output(key).endswith("done\n")
        assert len((tmp_path / "tally").read_text().splitlines()) == 2
        assert place.leftovers() == []

    def test_a_stubborn_experiment_does_not_keep_the_runner(self, place, until):
        key = place.submit({"main.py": STUBBORN})
        with place.daemon("--grace", "200ms") as daemon:
            running(place, key, until)
            daemon.send_signal(signal.SIGTERM)
            until(lambda: "SIGTERM" in place.log())
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(120) == 0
        assert len(place.waiting()) == 1
        assert not place.processes()

    def test_the_end_of_the_runner_does_not_wait_for_a_build(self, place, until):
        key = place.submit({"main.py": "print('hello')"}, pythonenv=[slow_package(place)])
        with place.daemon() as daemon:
            until(lambda: "building" in live_output(place, key))
            for number in (signal.SIGINT, signal.SIGTERM):
                daemon.send_signal(number)
                until(lambda name=number.name: name in place.log())
            assert daemon.wait(120) == 0
        assert len(place.waiting()) == 1
        assert not list(place.attempts.iterdir())

    def test_a_runner_ends_when_its_task_is_done_or_nothing_comes(self, place):
        keys = [place.submit({"main.py": "print('hello')"}) for _ in range(3)]
        with place.daemon("--limit-tasks", "2") as daemon:
            assert daemon.wait(120) == 0
        assert [place.stored(key, "_results").exists() for key in keys] == [True, True, False]
        with place.daemon("--limit-idle-duration", "200ms") as daemon:
            assert daemon.wait(120) == 0
        assert place.results(keys[2]).ok


def status(place, key):
    try:
        return place.record(key)["status"]
    except FileNotFoundError:
        return ""


def attempt_directory(place, key):
    """While it lasts."""
    found = list(place.attempts.glob(f"{key[:20]}*")) if place.attempts.is_dir() else []
    return found[0] if found else None


def running(place, key, until):
    """Wait until the script has said that it runs."""
    until(lambda: (found := attempt_directory(place, key)) and (found / "modeldir" / "started").exists())


def live_output(place, key):
    found = attempt_directory(place, key)
    path = found / "output" / "output" if found else None
    return path.read_text() if path and path.exists() else ""


def ask_to_stop(place, key, wish="stopped"):
    """As the sender's client does."""
    body = json.dumps({"key": key, "status": wish}).encode()
    member = tarfile.TarInfo("status.json")
    member.size = len(body)
    path = place.stored(key, "_status")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path.with_suffix(".new"), "w") as archive:
        archive.addfile(member, io.BytesIO(body))
    path.with_suffix(".new").rename(path)


def slow_package(place):
    """A requirement whose build takes ten minutes."""
    folder = place.home / "slow"
    folder.mkdir(exist_ok=True)
    (folder / "pyproject.toml").write_text(
        dedent("""
            [build-system]
            requires = []
            build-backend = "slow"
            backend-path = ["."]
            [project]
            name = "slow"
            version = "1.0"
        """)
    )
    (folder / "slow.py").write_text("import time\ndef build_wheel(*_):\n    time.sleep(600)\n")
    return f"slow @ file://{folder}"
