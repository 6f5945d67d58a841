"""What the operator says of containers, as those read it whose experiments it concerns."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from studio_runner.testing import command_path

IMAGE = "docker://127.0.0.1:9/team/box:1"


@pytest.fixture
def said(place):
    """Runs the command with these settings and a message; what it did, what it said."""

    def running(name, settings, image=None):
        _, body = place.request(place.workspace({"main.py": "print('it ran')"}))
        document = json.loads(body)
        if image:
            document["experiment"]["artifacts"]["_singularity"] = {"qualified": image, "mutable": False}
        variables = {f"STUDIO_RUNNER_{setting}": value for setting, value in settings.items()}
        return subprocess.run(
            [command_path(), name, "-"], input=json.dumps(document), capture_output=True, text=True,
            env=place.environment() | {"PATH": os.environ["PATH"]} | variables, timeout=120, check=False,
        )  # fmt: skip

    return running


CASES = {
    "required": ({"REQUIRE_CONTAINER": "true"}, None, "it brings no container image"),
    "refused": ({"CONTAINERS": "refused"}, IMAGE, "it brings a container image, and this runner runs none (--"),
    "source": (
        {"CONTAINER_SOURCES": "docker://127.0.0.1:9/other/*"},
        IMAGE,
        f"its image {IMAGE} comes from a place",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_exec_does_not_run_it_and_says_why(said, place, case):
    settings, image, words = CASES[case]
    done = said("exec", settings, image)
    assert done.returncode != 0
    assert f"environment_failed: The experiment is not run here: {words}" in done.stderr
    assert "it ran" not in done.stdout
    assert place.leftovers() == []


@pytest.mark.parametrize("case", CASES)
def test_check_says_it_beforehand(said, case):
    settings, image, words = CASES[case]
    done = said("check", settings, image)
    assert done.returncode == 1
    assert f"problem   container: this runner leaves it to others: {words}" in done.stdout


def test_check_of_what_is_allowed(said):
    done = said("check", {"CONTAINERS": "refused"})
    assert "container:" not in done.stdout


@pytest.mark.parametrize("name", ["exec", "check"])
def test_without_a_runtime(said, tmp_path, monkeypatch, name):
    """What needs none works."""
    monkeypatch.setenv("PATH", str(tmp_path))
    done = said(name, {}, IMAGE)
    assert "there is no container runtime here (apptainer or singularity)" in done.stdout + done.stderr
    assert done.returncode == 1


def test_run_says_it_before_anything_is_queued(place, tmp_path):
    (tmp_path / "main.py").write_text("print('it ran')")
    done = subprocess.run(
        [command_path(), "run", "--require-container", "main.py"], cwd=tmp_path, capture_output=True, text=True,
        env=place.environment(), timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "it brings no container image" in done.stderr
    assert "Ask for less" not in done.stderr
    assert "it ran" not in done.stdout


def test_check_asks_the_registry(said, apptainer, registry):
    plain = {"PLAIN_HTTP_REGISTRIES": registry.host}
    digest = registry.content.tags["team/box", "1"]
    done = said("check", plain, f"docker://{registry.host}/team/box:1")
    assert f"artifact _singularity: docker://{registry.host}/team/box:1 is {digest}" in done.stdout
    done = said("check", plain, f"docker://{registry.host}/team/none:1")
    assert f"There is no image docker://{registry.host}/team/none:1" in done.stdout
    assert done.returncode == 1
    assert registry.pulls("team/box") == 0


def test_logins_that_cannot_be_read_are_said(said, apptainer, tmp_path):
    logins = Path(tmp_path, "logins.json")
    logins.write_text("nonsense")
    done = said("check", {"REGISTRY_AUTH": str(logins)}, IMAGE)
    assert f"The logins of registries in {logins} cannot be read" in done.stdout
    assert done.returncode == 1


def test_a_daemon_leaves_it_to_others_and_says_so_once(place, until):
    """What it may run comes past."""
    files = {"main.py": "print('it ran')"}
    _, body = place.request(place.workspace(files))
    document = json.loads(body)
    document["experiment"]["artifacts"]["_singularity"] = {"qualified": IMAGE, "mutable": False}
    place.publish(json.dumps(document).encode())
    with place.daemon("--containers", "refused"):
        for _ in range(2):
            assert place.wait(place.submit(files)).ok
        until(lambda: "is left to others" in place.log())
    assert len(place.waiting()) == 1
    assert place.dead_letters() == []
    assert place.log().count("is left to others") == 1
    assert "this runner runs none (--containers refused)" in place.log()


def test_a_daemon_that_requires_containers(place, until):
    place.submit({"main.py": "print('it ran')"})
    with place.daemon("--require-container"):
        until(lambda: "it brings no container image" in place.log())
    assert len(place.waiting()) == 1
