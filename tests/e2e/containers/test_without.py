"""What works without control groups, user namespaces, a runtime or an account, and how the rest is refused."""

import json
from pathlib import Path

import pytest

from studio_runner.testing import artifact

LIMIT = Path("/proc/sys/user/max_user_namespaces")
NO_NAMESPACES = "Failed to create user namespace"
NO_ACCOUNT = "unknown userid"


@pytest.fixture(scope="module")
def limit():
    """The machine's own; no test changes it."""
    before = LIMIT.read_text()
    yield before
    assert LIMIT.read_text() == before


@pytest.fixture
def message(site, image_sif):
    _, body = site.request(site.workspace({"main.py": "print('it ran')"}))
    document = json.loads(body)
    document["experiment"]["artifacts"]["_singularity"] = {**artifact(image_sif, mutable=False), "unpack": False}
    path = site.home / "message.json"
    path.write_text(json.dumps(document))
    return str(path)


@pytest.fixture
def finding(site):
    """What `doctor` says about something."""

    def found(subject, *options):
        done = site.studio_runner("doctor", "--json", *options, capture_output=True, text=True)
        return next(one for one in json.loads(done.stdout) if one["subject"] == subject)

    return found


@pytest.fixture
def left_to_others(site, served, until):
    """A runner runs what needs no container, and leaves alone what does; what it says about that."""

    def look(*options):
        contained = [site.contained("print('it ran')") for _ in range(2)]
        with served(site, *options):
            assert site.wait(site.submit({"main.py": "print('without')"})).ok
            until(lambda: all(f"{key} on" in site.log() for key in contained))
        assert len(site.waiting()) == 2
        assert site.dead_letters() == []
        assert not any(site.stored(key, "_results").exists() for key in contained)
        return site.log()

    return look


@pytest.mark.parametrize("account", ["confined"], indirect=True)
class TestWithoutUserNamespaces:
    def test_what_needs_none_runs(self, left_to_others, limit):
        log = left_to_others()

        assert log.count("experiments that bring a container image are left to others") == 1
        assert log.count("is left to others: it brings a container image, and the container could not be") == 2
        assert NO_NAMESPACES in log
        assert "Allow user namespaces (sysctl" in log

    @pytest.mark.parametrize("name", ["exec", "check"])
    def test_it_is_refused_in_one_sentence(self, site, message, name, limit):
        done = site.studio_runner(name, message, capture_output=True, text=True)

        assert done.returncode == 1
        said = [line for line in (done.stdout + done.stderr).splitlines() if NO_NAMESPACES in line]
        assert said, done
        assert "it brings a container image, and the container could not be started: Failed" in said[0]
        assert "it ran" not in done.stdout

    def test_doctor_says_why_and_what_to_do(self, finding, limit):
        containers, namespaces = finding("containers"), finding("user namespaces")

        assert containers["state"] == namespaces["state"] == "problem"
        assert NO_NAMESPACES in containers["sentence"]
        assert f"{LIMIT} is 0" in namespaces["sentence"]
        assert namespaces["mend"] == f"Write 1 or more to {LIMIT}."


@pytest.mark.parametrize("account", ["stranger"], indirect=True)
class TestWithoutAnAccount:
    """The runner's user has no entry in /etc/passwd."""

    def test_what_needs_none_runs(self, left_to_others):
        log = left_to_others()

        assert log.count("experiments that bring a container image are left to others") == 1
        assert NO_ACCOUNT in log
        assert "Give this account an entry in /etc/passwd" in log

    def test_it_is_refused_in_one_sentence(self, site, message):
        done = site.studio_runner("exec", message, capture_output=True, text=True)

        assert done.returncode == 1
        assert "it brings a container image, and containers cannot be run here: " in done.stderr
        assert NO_ACCOUNT in done.stderr

    def test_doctor_says_why_and_what_to_do(self, finding):
        found = finding("containers")

        assert NO_ACCOUNT in found["sentence"]
        assert found["mend"].startswith("Give this account an entry in /etc/passwd")


class TestWithoutARuntime:
    def test_what_needs_none_runs(self, left_to_others):
        log = left_to_others("--container-runtime", "/nonexistent/apptainer")

        assert log.count("there is no container runtime here: /nonexistent/apptainer is not a program") == 2
        assert log.count("experiments that bring a container image are left to others") == 1

    def test_doctor_says_why_and_what_to_do(self, finding):
        found = finding("containers", "--container-runtime", "/nonexistent/apptainer")

        assert found["state"] == "warning"
        assert "There is no container runtime here: /nonexistent/apptainer is not a program" in found["sentence"]
        assert "Install apptainer or singularity" in found["mend"]


def test_doctor_says_what_holds_limits_without_control_groups(finding):
    """Experiments run all the same: tests/e2e/test_neighbours.py."""
    found = finding("limit on memory", "--cgroups", "off")

    assert found["state"] == "warning"
    assert "watched, not held" in found["sentence"]
    assert "switched off (machine.cgroups)" in found["sentence"]
    assert found["mend"] == "Set machine.cgroups to auto."
