"""Whoever dies, and however: no process, mount, loop device or directory of a container stays behind."""

import signal

import psutil
import pytest

pytestmark = pytest.mark.parametrize(
    ("account", "form"),
    [("root", "sandbox"), ("root", "sif"), ("user", "sandbox"), ("user", "sif"), ("mounter", "sif")],
    indirect=["account"],
)


@pytest.fixture
def image(form, image_archive, image_sif):
    return {"sandbox": image_archive, "sif": image_sif}[form]


def tree(daemon):
    """The processes between the runner and the container, by name."""
    found = {}
    for process in psutil.Process(daemon.pid).children(recursive=True):
        found.setdefault(process.name(), []).append(process)
    return found


def busy(processes):
    return next(process for process in processes if process.children())


def test_a_time_limit_leaves_nothing(site, served, image, stubborn, nothing_left):
    with served(site, "--grace", "100ms"):
        key = site.contained(stubborn, image=image, max_duration="4s")
        results = site.wait(key)
        nothing_left(site)

    assert results.reason == "timed_out"


def test_what_the_script_leaves_running_ends_with_it(site, served, image, nothing_left):
    code = "import os, time\nif not os.fork():\n    os.setsid()\n    if not os.fork():\n        time.sleep(1000)\n    os._exit(0)"
    with served(site):
        results = site.wait(site.contained(code, image=image))
        nothing_left(site)

    assert results.ok


def test_the_runner_is_killed(site, served, image, begun, nothing_left):
    with served(site) as daemon:
        key = begun(image)
        daemon.kill()
        daemon.wait()
        assert psutil.wait_procs(site.processes(), timeout=60)[1] == []
    with served(site, "--lease", "2s"):
        assert site.wait(key).ok
        nothing_left(site)


def test_the_supervisor_is_killed(site, served, image, begun, nothing_left):
    with served(site) as daemon:
        key = begun(image)
        busy(tree(daemon)["studio-superv"]).kill()
        assert site.wait(key).ok  # tried again
        nothing_left(site)


def test_the_keeper_is_killed(site, served, image, begun, nothing_left):
    with served(site, "--grace", "100ms") as daemon:
        key = begun(image)
        tree(daemon)["studio-keeper"][0].kill()
        site.studio_runner("stop", key)
        assert site.wait(key).reason == "stopped"
        nothing_left(site)


def test_the_runtime_is_killed(site, served, image, begun, nothing_left):
    with served(site) as daemon:
        key = begun(image)
        busy(tree(daemon)["studio-superv"]).children()[0].kill()
        results = site.wait(key)
        nothing_left(site)

    assert (results.reason, results.signal) == ("script_failed", signal.SIGKILL)


def test_runner_keeper_and_supervisor_are_killed_at_once(site, served, image, begun, nothing_left):
    """What survives is found by the next runner."""
    with served(site) as daemon:
        key = begun(image)
        found = tree(daemon)
        for process in (psutil.Process(daemon.pid), *found["studio-keeper"], *found["studio-superv"]):
            process.suspend()
        for process in (psutil.Process(daemon.pid), *found["studio-keeper"], *found["studio-superv"]):
            process.kill()
        daemon.wait()
    with served(site, "--lease", "2s"):
        assert site.wait(key).ok
        nothing_left(site)


def test_it_is_stopped_while_the_container_starts(site, served, image, stubborn, nothing_left):
    """Again and again, at other moments."""
    with served(site, "--grace", "100ms"):
        keys = [
            site.contained(stubborn, image=image, max_duration=f"{20 * number}ms") for number in range(1, 30, 4)
        ]
        reasons = {site.wait(key).reason for key in keys}
        nothing_left(site)

    assert reasons == {"timed_out"}


def test_the_trees_processes_are_all_known_to_the_runner(site, served, image, begun, until):
    """They are counted: memory and processes of a container are an experiment's like any other's."""
    with served(site, "--grace", "100ms"):
        key = begun(image, config={"saveMetricsFrequency": "100ms"})
        until(lambda: any(path.stat().st_size for path in site.attempts.glob("*/_metrics/attempt-1.jsonl")))
        site.studio_runner("stop", key)
        assert site.wait(key).reason == "stopped"

    samples = site.files(key, "_metrics")["attempt-1.jsonl"].decode().splitlines()
    assert samples
    assert '"processes": 0' not in samples[-1]
