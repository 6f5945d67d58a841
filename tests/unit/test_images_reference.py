"""References to images, and who opens the registries that have them."""

import base64
import json
import os
import stat

import pytest

from studio_runner.environments.images.logins import Login, login_in, write_login
from studio_runner.environments.images.reference import Reference, is_reference
from studio_runner.environments.images.sources import RegistryImage
from studio_runner.errors import EnvironmentFailedError, EnvironmentUnavailableError

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("scheme", "rest", "address"),
    [
        ("docker", "python", "docker://docker.io/library/python:latest"),
        ("docker", "python:3.11", "docker://docker.io/library/python:3.11"),
        ("docker", "team/box", "docker://docker.io/team/box:latest"),
        ("dockerhub", "team/box:1", "docker://docker.io/team/box:1"),
        ("docker", "index.docker.io/team/box", "docker://docker.io/team/box:latest"),
        ("docker", "ghcr.io/team/a/b:v1", "docker://ghcr.io/team/a/b:v1"),
        ("docker", "GHCR.io/team/box", "docker://ghcr.io/team/box:latest"),
        ("docker", "localhost:5000/box", "docker://localhost:5000/box:latest"),
        ("docker", f"python@{DIGEST}", f"docker://docker.io/library/python@{DIGEST}"),
        ("oras", "ghcr.io/team/sif:1", "oras://ghcr.io/team/sif:1"),
        ("library", "sylabs/examples/lolcow:latest", "library://sylabs/examples/lolcow:latest"),
        ("library", "/sylabs/examples/lolcow", "library:///sylabs/examples/lolcow"),
        ("shub", "team/box", "shub://team/box"),
    ],
)
def test_a_reference_in_full(scheme, rest, address):
    assert Reference.parse(scheme, rest).address == address


@pytest.mark.parametrize(
    "rest",
    [
        "", "/", ":1", "box:", "box@", "box@sha256:abc", "box@md5:" + "a" * 32, "Team/Box", "a//b", "team/../box", "box 1",
        "-option", "box;rm", "host.example/--help", "user:secret@host.example/box", "host.example:x/box", "b\nox",
        "host.example:123456/box",
    ],
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["docker", "oras"])
def test_no_reference(scheme, rest):
    with pytest.raises(EnvironmentFailedError, match="is no reference to an image") as raised:
        Reference.parse(scheme, rest)
    assert "secret" not in str(raised.value)
    assert "SCHEME://" in raised.value.hint


@pytest.mark.parametrize("rest", ["", "--help", "team/../box", "box 1", "box;rm"])
@pytest.mark.parametrize("scheme", ["library", "shub"])
def test_no_reference_for_the_runtime(scheme, rest):
    with pytest.raises(EnvironmentFailedError):
        Reference.parse(scheme, rest)


def test_the_schemes_of_references():
    assert all(map(is_reference, ("docker", "dockerhub", "shub", "library", "oras")))
    assert not any(map(is_reference, ("s3", "file", "https", "http", "gs")))


@pytest.mark.parametrize(
    ("scheme", "rest", "pinned"),
    [
        ("docker", f"box@{DIGEST}", True),
        ("docker", f"box:1@{DIGEST}", True),
        ("docker", "box:1", False),
        ("docker", "box:" + "a" * 64, False),
        ("oras", f"ghcr.io/box@{DIGEST}", True),
        ("library", "team/c/box:sha256." + "a" * 64, True),
        ("library", "team/c/box:latest", False),
    ],
)
def test_which_references_mean_the_same_for_ever(scheme, rest, pinned):
    assert Reference.parse(scheme, rest).pinned == pinned


def test_one_image_is_another_for_whoever_shows_something_else():
    reference = Reference.parse("docker", "ghcr.io/team/box")
    plain = RegistryImage(reference)
    hers = RegistryImage(reference, Login("anna", "s3cret-word"))
    assert plain.identity != hers.identity
    assert hers.identity != RegistryImage(reference, Login("anna", "another")).identity
    assert "s3cret-word" not in repr(hers) + str(hers.name)


@pytest.fixture
def file(tmp_path):
    def write(auths):
        path = tmp_path / "logins.json"
        path.write_text(json.dumps({"auths": auths}))
        return path

    return write


def entry(name):
    return {"auth": base64.b64encode(f"{name}:pw:{name}".encode()).decode()}


@pytest.mark.parametrize(
    ("rest", "user"),
    [
        ("ghcr.io/team/box", "team"),
        ("ghcr.io/teamwork/box", "ghcr"),
        ("ghcr.io/other/box", "ghcr"),
        ("python", "hub"),
        ("docker.io/team/box", "hub"),
        ("localhost:5000/box", "local"),
        ("localhost:5001/box", None),
        ("quay.io/box/x", None),
        ("plain.example/box", "someone"),
    ],
)
def test_the_login_that_fits_best(file, rest, user):
    path = file(
        {
            "ghcr.io": entry("ghcr"),
            "https://ghcr.io/team": entry("team"),
            "https://index.docker.io/v1/": entry("hub"),
            "http://localhost:5000/v2/": entry("local"),
            "plain.example": {"username": "someone", "password": "pw:someone"},
            "quay.io": {"auth": "!!!"},
        }
    )
    login = login_in(path, Reference.parse("docker", rest))
    assert (login.user if login else None) == user
    assert login is None or login.password == f"pw:{user}"


def test_no_file_of_logins():
    assert login_in(None, Reference.parse("docker", "ghcr.io/team/box")) is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"auths": '])
def test_a_file_of_logins_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "logins.json"
    path.write_text(content)
    with pytest.raises(EnvironmentUnavailableError, match=r"logins\.json cannot be read") as raised:
        login_in(path, Reference.parse("docker", "ghcr.io/team/box"))
    assert "docker login" in raised.value.hint
    with pytest.raises(EnvironmentUnavailableError, match="No such file"):
        login_in(tmp_path / "none", Reference.parse("docker", "ghcr.io/team/box"))


@pytest.mark.parametrize("auths", [None, [], {"ghcr.io": None}, {"ghcr.io": {}}, {"ghcr.io": {"auth": 7}}])
def test_a_file_without_a_login(file, auths):
    assert login_in(file(auths), Reference.parse("docker", "ghcr.io/team/box")) is None


def test_the_runtimes_file_is_its_owners(tmp_path):
    before = os.umask(0)
    try:
        write_login(tmp_path, Reference.parse("docker", "ghcr.io/team/box"), Login("anna", "pw"))
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} == {".apptainer", ".singularity"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert {stat.S_IMODE(path.parent.stat().st_mode) for path in files} == {0o700}
    assert login_in(files[0], Reference.parse("docker", "ghcr.io/team/box")) == Login("anna", "pw")
