"""The archive of `retval`, of which completion services take the one file that is in it."""

import io
import tarfile
import time
from types import SimpleNamespace

import pytest

from studio_runner.messages.request import parse_request
from studio_runner.runner.artifacts import Artifacts
from studio_runner.storage.registry import Stores
from studio_runner.testing import Installation


@pytest.fixture
def place(tmp_path):
    return Installation(tmp_path / "home", tmp_path / "cache")


@pytest.fixture
def delivered(place, tmp_path):
    """Members of an artifact's archive, from an attempt that left these files in its directory."""

    async def deliver(label, files, **experiment):
        key, body = place.request(place.workspace({"main.py": ""}), **experiment)
        host = SimpleNamespace(stores=Stores(), artifact_cache=None, identity=SimpleNamespace(runner="r"))
        artifacts = Artifacts(parse_request(body), tmp_path / "attempt", 1, host)
        for name, content in files.items():
            path = tmp_path / "attempt" / label / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        await artifacts.upload([label], {})
        with tarfile.open(fileobj=io.BytesIO(place.stored(key, label).read_bytes())) as archive:
            return archive.getmembers()

    return deliver


@pytest.mark.parametrize("said", [False, True])
async def test_newer_completion_services_find_their_one_file(delivered, said):
    (member,) = await delivered("retval", {"retval": b"42"}, from_compl_service=said)
    assert member.name == "./retval"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("studioml==0.0.35.post10", "retval"),
        ("studioml==0.0.37", "retval"),
        ("studioml==0.0.38.post5", "./retval"),
        ("studioml-cs==0.0.48", "./retval"),
        ("-e git+https://example.com/studio@1f2e#egg=studioml", "retval"),
        pytest.param("studioml==0.0." + "9" * 5000, "./retval", id="a release of thousands of digits"),
    ],
)
async def test_older_completion_services_find_their_one_file(delivered, line, name):
    (member,) = await delivered("retval", {"retval": b"42"}, pythonenv=["six==1.16.0", line])
    assert member.name == name


async def test_what_a_task_returns_is_newer_than_the_end_of_its_submission(delivered):
    """A client notes the time of submission seconds after its message is out; it waits for a newer file."""
    (member,) = await delivered("retval", {"retval": b"42"}, from_compl_service=False)
    assert time.time() + 10 < member.mtime < time.time() + 20


async def test_several_files_stay_a_directory(delivered):
    members = await delivered("retval", {"retval": b"42", "log": b""}, from_compl_service=False)
    assert [member.name for member in members] == ["log", "retval"]
    assert all(member.mtime <= time.time() for member in members)


async def test_a_directory_alone_stays_one(delivered):
    members = await delivered("retval", {"parts/0": b"42"}, from_compl_service=False)
    assert [member.name for member in members] == ["parts", "parts/0"]


async def test_other_artifacts_stay_directories(delivered):
    (member,) = await delivered("modeldir", {"weights": b"42"}, from_compl_service=False)
    assert (member.name, member.mtime <= time.time()) == ("weights", True)
