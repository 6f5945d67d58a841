"""Image files that an ordinary user's runtime mounts with squashfuse: a process that lives beside the container."""

import pwd
import signal
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.parametrize("account", ["mounter"], indirect=True)

SAVES = """
import os, signal, sys, time

def save(*_):
    import wsgiref.simple_server, zipapp  # nothing of them was read before
    print("saved", flush=True)
    os._exit(0)

signal.signal(signal.SIGTERM, save)
open("../modeldir/ready", "w").close()
while True:
    time.sleep(1)
"""


WAITS = """
import os, time
open("../modeldir/ready", "w").close()
while not os.path.exists("../modeldir/enough"):
    time.sleep(0.01)
print("done")
"""


def mounters(daemon):
    return [one for one in psutil.Process(daemon.pid).children(recursive=True) if "squashfuse" in one.name()]


def test_it_is_mounted_and_nothing_of_that_stays(site, served, image_sif, begun, nothing_left):
    """Looked for as in every other test of what stays behind: while it runs, all of it is found."""
    home = Path(pwd.getpwuid(site.account.uid).pw_dir) / ".apptainer"
    before = home.exists()
    with served(site) as daemon:
        key = begun(image_sif, WAITS)
        (mounter,) = mounters(daemon)
        assert mounter in nothing_left.traces(site)
        (next(site.attempts.glob(f"{key}.*")) / "modeldir" / "enough").touch()
        results = site.wait(key)
        nothing_left(site)
        assert not mounter.is_running()

    assert results.ok
    output = site.output(key)
    assert "unpacking" not in output
    assert "left running" not in output
    assert output.endswith("done\n")
    assert home.exists() == before


def test_a_script_that_is_stopped_keeps_its_file_system(site, served, image_sif, begun, nothing_left):
    """It is asked to end, and what mounts its image is not."""
    with served(site):
        key = begun(image_sif, SAVES)
        site.studio_runner("stop", key)
        results = site.wait(key)
        nothing_left(site)

    assert results.reason == "stopped"
    assert site.output(key).count("saved\n") == 1, site.output(key)


def test_the_mounter_is_killed(site, served, image_sif, begun, nothing_left):
    with served(site, "--grace", "100ms") as daemon:
        key = begun(image_sif)
        mounters(daemon)[0].send_signal(signal.SIGKILL)
        site.studio_runner("stop", key)
        assert site.wait(key).reason == "stopped"
        nothing_left(site)
