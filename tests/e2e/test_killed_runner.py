"""Kill -9 of the runner, at every stage: after a restart the experiment is whole and nothing is left behind."""

import os
import runpy
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from studio_runner.testing import installation

PROGRAM = Path(__file__).parent / "programs" / "dies_at.py"
POINTS = runpy.run_path(str(PROGRAM))["POINTS"]
RAN_BEFORE_THE_CRASH = {"script over", "brought home", "delivered", "uploaded", "settling", "settled"}
NOT_RUN_AGAIN = {"delivered", "uploaded", "settling", "settled"}

SCRIPT = """
import os, pathlib, sys
with open(os.environ["TALLY"], "a") as tally:
    tally.write("run\\n")
pathlib.Path("../modeldir/model.bin").write_bytes(b"m" * 300_000)
print("trained")
"""


@pytest.fixture
def place():
    with installation() as made:
        yield made


def tagged_processes(home):
    """Processes of attempts of this installation."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        if environment.get("STUDIO_RUNNER_ATTEMPT") and environment.get("STUDIOML_HOME", "").startswith(str(home)):
            found.append(process)
    return found


def runs(tally):
    return len(tally.read_text().splitlines()) if tally.exists() else 0


def assert_nothing_left(place):
    assert place.waiting() == []
    assert place.claimed() == []
    assert place.leftovers() == []
    assert tagged_processes(place.home) == []
    assert list((place.home / "runner" / "runners").iterdir()) == []


@pytest.mark.parametrize("point", POINTS)
def test_the_experiment_survives(place, until, point):
    tally = place.home / "tally"
    workspace = place.workspace({"main.py": SCRIPT})
    key, body = place.request(workspace, pythonenv=["six==1.16.0"], config={"env": {"TALLY": str(tally)}})
    place.publish(body)
    doomed = place.start(program=(sys.executable, str(PROGRAM), point, "start"))
    assert doomed.wait(120) == -signal.SIGKILL
    ran = runs(tally)
    assert ran == (1 if point in RAN_BEFORE_THE_CRASH else 0)

    with place.daemon() as daemon:
        until(lambda: place.log().count("serving queue local_test") == 2)
        results = place.wait(key)
        until(lambda: not place.leftovers())
    assert daemon.returncode == 0

    assert results.ok, results.exit_msg
    assert "trained" in place.output(key)
    assert place.files(key, "modeldir") == {"model.bin": b"m" * 300_000}
    assert place.record(key)["status"] == "finished"
    assert runs(tally) == (1 if point in NOT_RUN_AGAIN else ran + 1)
    assert_nothing_left(place)


LINGERING = """
import os, subprocess, sys, time
daemon = "import time; time.sleep(600)"
for _ in range(3):
    subprocess.Popen([sys.executable, "-c", daemon], start_new_session=True, close_fds=True)
with open(os.environ["TALLY"], "a") as tally:
    tally.write("run\\n")
if len(open(os.environ["TALLY"]).readlines()) == 1:
    time.sleep(600)
print("second time lucky")
"""


def test_while_the_script_runs_its_whole_tree_dies_with_the_runner(place):
    tally = place.home / "tally"
    key, body = place.request(place.workspace({"main.py": LINGERING}), config={"env": {"TALLY": str(tally)}})
    place.publish(body)
    doomed = place.start()
    deadline = time.monotonic() + 60
    while len(tagged_processes(place.home)) < 4 or not runs(tally):
        assert doomed.poll() is None, place.log()
        assert time.monotonic() < deadline, place.log()
        time.sleep(0.05)
    os.kill(doomed.pid, signal.SIGKILL)
    doomed.wait()
    deadline = time.monotonic() + 60
    while tagged_processes(place.home):
        assert time.monotonic() < deadline, "the tree outlived the runner"
        time.sleep(0.02)

    with place.daemon("--limit-tasks", "1") as daemon:
        daemon.wait(120)

    assert place.results(key).ok
    assert place.output(key).endswith("second time lucky\n")
    assert place.record(key)["studio_runner"]["attempt"] == 2
    assert runs(tally) == 2
    assert_nothing_left(place)
