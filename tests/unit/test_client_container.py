"""`--container`: what becomes of an image that goes along, and of a script that is the image's own."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from studio_runner.client import package
from studio_runner.client.artifacts import Capture, parse_capture, parse_image, remote
from studio_runner.client.request import Draft, entry_point
from studio_runner.client.requirements import Wanted
from studio_runner.client.submit import Order, _packages, is_of_image
from studio_runner.errors import UsageError
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.image import ImageReceiver

IMAGE = Capture("_singularity", Path("/images/box.sif"))


@pytest.mark.parametrize(
    "address",
    [
        "docker://ghcr.io/team/box:1",
        "docker://localhost:5000/box",
        "oras://ghcr.io/box",
        "shub://a/b",
        "s3://h/b/k.sif",
    ],
)
def test_an_address_goes_as_it_is(address):
    assert remote(parse_image(address)) == {"qualified": address, "mutable": False, "unpack": False}


@pytest.mark.parametrize("text", ["box.sif", "~/box.sif", "/images/box:1.sif"])
def test_everything_else_is_a_path(text):
    capture = parse_image(text)
    assert capture.label == "_singularity"
    assert capture.address is None
    assert capture.path == Path(text).expanduser().absolute()


def test_the_existing_clients_way_of_saying_it():
    assert parse_capture("/images/box.sif:_singularity") == IMAGE


def test_a_sandbox_arrives_as_it_was(tmp_path):
    box = tmp_path / "box"
    for folder in ("usr/bin", "etc", "tmp", "node_modules", ".git"):
        (box / folder).mkdir(parents=True)
    (box / "usr/bin/dash").write_bytes(b"\x7fELF")
    (box / "usr/bin/dash").chmod(0o755)
    (box / ".git/config").write_text("kept")
    (box / ".studioml_ignore").write_text("etc\n")
    (box / "usr/bin/sh").symlink_to("/usr/bin/dash")
    (box / "etc/mtab").symlink_to("../../../proc/mounts")
    said, came = [], tmp_path / "came"
    came.mkdir()
    packed = package.archive(package.image(box), said.append)
    with packed.file, ImageReceiver(came, DiskBudget(None)) as receiver:
        receiver.feed(packed.file.read())
        receiver.close()
    assert sorted(os.listdir(came)) == sorted(os.listdir(box))
    assert os.readlink(came / "usr/bin/sh") == "/usr/bin/dash"
    assert os.readlink(came / "etc/mtab") == "../../../proc/mounts"
    assert os.access(came / "usr/bin/dash", os.X_OK)
    assert said == []
    assert receiver.sha256 == packed.digest


def test_a_file_arrives_as_existing_clients_pack_it(tmp_path):
    (tmp_path / "box.sif").write_bytes(b"x" * 1000)
    (tmp_path / "other").touch()
    assert list(package.image(tmp_path / "box.sif").files) == ["box.sif"]


def test_an_image_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="There is no container image at"):
        package.image(tmp_path / "none.sif")


@pytest.mark.parametrize(("script", "own"), [(None, True), ("/opt/app/run.py", True), ("train.py", False)])
def test_whose_script_it_is(script, own):
    assert is_of_image(script, [IMAGE]) == own


def test_without_a_container_there_must_be_a_script():
    with pytest.raises(UsageError, match="No SCRIPT is named") as raised:
        is_of_image(None, [])
    assert "--container" in raised.value.hint
    assert not is_of_image("/etc/passwd", [])


def test_the_images_own_program_in_the_message():
    assert entry_point(None) == (None, ())


def test_hyperparameters_need_a_script_of_the_directory(tmp_path):
    order = Order(directory=tmp_path, base=Draft("k", None), wanted=Wanted(), captures_once=(IMAGE,))
    assert len(_packages(order)) == 1
    with pytest.raises(UsageError, match="needs a script"):
        _packages(replace(order, hyperparameters=("any",)))
