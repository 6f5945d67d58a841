"""Files are their user's alone, but for those of shared places."""

import os
import stat

import pytest

from studio_runner.process.modes import PRIVATE, make_directories, share_file


@pytest.fixture(autouse=True)
def umask():
    before = os.umask(PRIVATE)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def file_in(directory):
    with (directory / "file").open("w") as file:
        share_file(file.fileno(), str(directory))
    return mode(directory / "file")


@pytest.mark.parametrize(
    ("place", "file", "below"),
    [
        pytest.param(0o700, 0o600, 0o700, id="closed"),
        pytest.param(0o755, 0o600, 0o700, id="others may look"),
        pytest.param(0o775, 0o664, 0o775, id="a group works in it"),
        pytest.param(0o2770, 0o660, 0o2770, id="a group alone"),
        pytest.param(0o1777, 0o600, 0o700, id="everybody by himself"),
    ],
)
def test_what_comes_into_a_shared_place_is_shared(tmp_path, place, file, below):
    top = tmp_path / "top"
    top.mkdir()
    top.chmod(place)

    make_directories(str(top / "a" / "b"))

    assert file_in(top) == file
    assert {mode(top / "a"), mode(top / "a" / "b")} == {below}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root brings files into the places of others")
def test_what_root_brings_to_somebody_can_be_read_there(tmp_path):
    top = tmp_path / "top"
    top.mkdir(0o755)
    top.chmod(0o755)
    os.chown(top, 65534, 65534)

    assert file_in(top) == 0o644
