"""Which experiments a runner leaves to others because of what its operator says of containers."""

import json
from dataclasses import replace

import pytest

from studio_runner.config import cascade
from studio_runner.errors import EnvironmentFailedError
from studio_runner.messages.request import parse_request
from studio_runner.runner.policy import Policy, allowed, objections

DEFAULTS = cascade.load({"HOME": "/"}).settings.containers
RUNTIME = "/usr/bin/apptainer"
NONE = "There is no container runtime here (apptainer or singularity)"
WORKSPACE = {"qualified": "s3://host/bucket/w.tar", "mutable": False, "unpack": True}


def request(image=None):
    artifacts = {"workspace": WORKSPACE}
    if image:
        artifacts["_singularity"] = {"qualified": image, "mutable": False, "unpack": False}
    experiment = {"key": "1_a", "filename": "train.py", "artifacts": artifacts}
    return parse_request(json.dumps({"experiment": experiment, "config": {}}).encode())


def said(image=None, obstacle="", **settings):
    return objections(request(image), replace(DEFAULTS, **settings), obstacle)


def test_everything_is_run_where_nothing_is_said():
    assert said() == said("docker://python:3.11") == said("file:///images/box.sif") == []


def test_without_a_runtime_only_containers_are_left():
    assert said(obstacle=NONE) == []
    (why,) = said("docker://python", obstacle=NONE)
    assert "there is no container runtime here" in why


def test_containers_may_be_required():
    (why,) = said(require=True)
    assert "brings no container image" in why
    assert "--require-container" in why
    assert said("docker://python", require=True) == []


def test_containers_may_be_refused():
    """Whatever else is the matter with them."""
    (why,) = said("docker://python", obstacle=NONE, use="refused", sources=("docker://ghcr.io/*",))
    assert "runs none" in why
    assert said(use="refused") == []


def test_sources_may_be_named():
    assert said("docker://ghcr.io/team/box", sources=("docker://ghcr.io/team/*",)) == []
    assert said(sources=("docker://ghcr.io/team/*",)) == []
    (why,) = said("docker://ghcr.io/other/box", sources=("docker://ghcr.io/team/*",))
    assert "docker://ghcr.io/other/box" in why
    assert "--container-sources" in why
    assert len(said("docker://ghcr.io/other/box", obstacle=NONE, sources=("file:///images/*",))) == 2


def test_what_opens_a_source_is_not_told():
    (why,) = said("https://anna:s3cret-word@host.example/box.sif", sources=("docker://*",))
    assert "s3cret-word" not in why


@pytest.mark.parametrize(
    ("image", "pattern", "fits"),
    [
        ("docker://ghcr.io/team/box:1", "docker://ghcr.io/team/*", True),
        ("docker://ghcr.io/team/box/deep:1", "docker://ghcr.io/team/*", True),
        ("docker://ghcr.io/teamwork/box:1", "docker://ghcr.io/team/*", False),
        ("docker://ghcr.io/team/box:1", "docker://ghcr.io/*/box:*", True),
        ("docker://ghcr.io/team/deep/box:1", "docker://ghcr.io/*/box:*", False),
        ("docker://GHCR.io/team/box", "docker://ghcr.io/team/box:latest", True),
        ("docker://ghcr.io/team/box:2", "docker://ghcr.io/team/box:1", False),
        ("docker://python", "docker://docker.io/library/*", True),
        ("dockerhub://python", "docker://docker.io/library/*", True),
        ("dockerhub://team/box", "dockerhub://docker.io/team/*", True),
        ("oras://ghcr.io/team/box", "docker://ghcr.io/team/*", False),
        ("docker://ghcr.io.evil.example/team/box", "docker://ghcr.io/*", False),
        ("docker://evil.example/ghcr.io/team/box", "docker://ghcr.io/*", False),
        ("docker://ghcr.io/team/../evil/box", "docker://ghcr.io/team/*", False),
        ("docker://ghcr.io@evil.example/team/box", "docker://ghcr.io*", False),
        ("library://team/c/box", "library://team/*", True),
        ("s3://HOST:9000/images/box.sif", "s3://host:9000/images/*", True),
        ("s3://user:pw@host:9000/images/box.sif", "s3://host:9000/images/*", True),
        ("s3://host:9000/others/box.sif", "s3://host:9000/images/*", False),
        ("gs://images/box.sif", "gs://images/*", True),
        ("https://host/images/box.sif", "https://host/images/*", True),
        ("http://host/images/box.sif", "https://host/images/*", False),
        ("https://host@evil.example/images/box.sif", "https://host*", False),
        ("https://host/images/../secret.sif", "https://host/images/*", False),
        ("https://host/images/%2e%2E/secret.sif", "https://host/images/*", False),
        ("https://host/images/..%2fsecret.sif", "https://host/images/*", False),
        ("https://host/images/..\\secret.sif", "https://host/images/*", False),
        ("https://host/images/a..b.sif", "https://host/images/*", True),
        ("file:///images/box.sif", "file:///images/*", True),
        ("file:///images/../etc/shadow", "file:///images/*", False),
        ("file:///images/a/box.sif", "file:///images/*.sif", False),
        ("file:///images/box.sif", "file:///images/[b]ox.sif", False),
        ("file:///images/box.sif", "*", True),
        ("docker://ghcr.io/team/box", "", False),
    ],
)  # fmt: skip
def test_patterns(image, pattern, fits):
    assert allowed(request(image).artifacts["_singularity"], [pattern]) == fits


def test_the_runtime_is_looked_for_when_it_is_needed():
    """It may be installed while the runner runs."""
    found = []

    def find():
        if not found:
            raise EnvironmentFailedError(NONE)
        return found[0]

    policy = Policy(DEFAULTS, find)
    assert policy(request()) == []
    assert len(policy(request("docker://python"))) == 1
    found.append(RUNTIME)
    assert policy(request("docker://python")) == []
