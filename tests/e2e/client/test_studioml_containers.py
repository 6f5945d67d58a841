"""The StudioML client's `--container`: an image file and a sandbox; a script and the image's own program."""

import pytest

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]

SCRIPT = """
import os, sys
print("in the image:", os.environ.get("IN_TEST_IMAGE"), sys.argv[1:])
open("../modeldir/weights", "w").write("1.5")
"""


@pytest.fixture
def client(client, machine):
    """Its files are not where the runner has its own."""
    kept = machine.home / "kept"
    kept.mkdir()
    section = {"type": "local", "endpoint": str(kept)}
    client.configure(storage={**section, "bucket": "storage"}, database={**section, "bucket": "meta"})
    return client


@pytest.fixture
def ended(client, until):
    """The experiment as the client sees it when it is over."""

    def wait(key):
        return until(lambda: (seen := client.experiment(key))["time_finished"] and seen)

    return wait


@pytest.fixture(params=["sandbox", "file"])
def image(request, apptainer, image_sandbox, image_sif):
    return {"sandbox": image_sandbox, "file": image_sif}[request.param]


def test_a_script_runs_in_the_clients_container(client, machine, ended, image):
    project = client.project()
    (project / "train.py").write_text(SCRIPT)
    key = client.submit("local_mine", "--container", str(image), "train.py", "10", project=project)
    with machine.daemon("--cpu-only"):
        seen = ended(key)
    assert seen["status"] == "finished"
    assert "in the image: 1 ['10']" in client.output(key).splitlines()
    assert client.fetch(key, "modeldir") == {"weights": b"1.5"}
    assert not machine.leftovers()


def test_the_containers_own_program_runs_without_a_script(client, machine, ended, image):
    key = client.submit("local_mine", "--container", str(image), project=client.project())
    with machine.daemon("--cpu-only"):
        assert ended(key)["status"] == "finished"
    assert "runscript: " in client.output(key).splitlines()
    assert not machine.leftovers()
