"""What is taken for an image, what for none, and for which machine it is."""

import struct

import pytest

from studio_runner.environments.images import architecture
from studio_runner.environments.images.architecture import this_machine
from studio_runner.environments.images.look import look
from studio_runner.errors import ArtifactInvalidError

MACHINES = {"i386": 3, "ppc64": 21, "s390x": 22, "arm": 40, "amd64": 62, "arm64": 183, "riscv64": 243}
CODES = {"i386": b"01", "amd64": b"02", "arm64": b"04", "ppc64le": b"06", "riscv64": b"12"}


@pytest.fixture(autouse=True)
def on_amd64(monkeypatch):
    monkeypatch.setattr(architecture.platform, "machine", lambda: "x86_64")


def sif(architecture="amd64", size=8192, end=8192):
    content = bytearray(size)
    content[:32] = b"#!/usr/bin/env run-singularity\n\0"
    content[32:42] = b"SIF_MAGIC\0"
    content[42:45] = b"01\0"
    content[45:47] = CODES.get(architecture, b"99")
    struct.pack_into("<2q", content, 112, 4096, end - 4096)
    return bytes(content)


def program(name="amd64", order="<"):
    head = bytearray(64)
    head[:6] = b"\x7fELF\x02" + (b"\x01" if order == "<" else b"\x02")
    struct.pack_into(f"{order}H", head, 18, MACHINES[name])
    return bytes(head)


def sandbox(directory, shell=None):
    for name in ("usr/bin", "etc", ".singularity.d"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / "bin").symlink_to("usr/bin")
    (directory / "usr/bin/dash").write_bytes(shell or program())
    (directory / "usr/bin/sh").symlink_to("/usr/bin/dash")
    return directory


def refused(path):
    with pytest.raises(ArtifactInvalidError) as caught:
        look(path)
    assert caught.value.hint
    return str(caught.value)


def file(tmp_path, content):
    (tmp_path / "image").write_bytes(content)
    return tmp_path / "image"


def test_a_sif_file(tmp_path):
    found = look(file(tmp_path, sif()))
    assert (found.form, found.path) == ("sif", tmp_path / "image")


@pytest.mark.parametrize("name", ["arm64", "ppc64le", "riscv64"])
def test_a_sif_file_for_another_machine(tmp_path, name):
    assert refused(file(tmp_path, sif(name))) == f"is made for {name} machines, and this one is amd64"


@pytest.mark.parametrize("name", ["i386", "something newer"])
def test_a_sif_file_that_may_run_here(tmp_path, name):
    assert look(file(tmp_path, sif(name))).form == "sif"


@pytest.mark.parametrize(("size", "end"), [(8192, 8193), (48, 8192), (8192, -9000), (8192, 1 << 62)])
def test_a_damaged_sif_file(tmp_path, size, end):
    assert "is a damaged SIF image" in refused(file(tmp_path, sif(end=end)[:size]))


@pytest.mark.parametrize("before", [b"", b"#!/usr/bin/env run-singularity\n"])
def test_a_squashfs_file(tmp_path, before):
    assert look(file(tmp_path, before + b"hsqs" + bytes(96))).form == "squashfs"


@pytest.mark.parametrize("before", [b"", b"#!/usr/bin/env run-singularity\n"])
def test_an_ext3_file_is_refused(tmp_path, before):
    assert "is an ext3 image" in refused(file(tmp_path, before + bytes(1080) + b"\x53\xef" + bytes(1000)))


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "the file image is empty"), (b"\x1f\x8bxyz", r"starts with b'\x1f\x8bxyz'")]
)
def test_no_image(tmp_path, content, words):
    assert words in refused(file(tmp_path, content))


def test_a_sandbox(tmp_path):
    found = look(sandbox(tmp_path / "box"))
    assert (found.form, found.path) == ("sandbox", tmp_path / "box")


def test_a_sandbox_that_no_tool_has_marked(tmp_path):
    (sandbox(tmp_path / "box") / ".singularity.d").rmdir()
    assert look(tmp_path / "box").form == "sandbox"


@pytest.mark.parametrize("depth", [1, 2])
def test_what_is_alone_in_a_directory(tmp_path, depth):
    inner = tmp_path.joinpath("came", *"ab"[: depth - 1])
    inner.mkdir(parents=True)
    file(inner, sif())
    assert look(tmp_path / "came").path == inner / "image"
    (inner / "image").unlink()
    sandbox(inner / "box")
    assert look(tmp_path / "came").path == inner / "box"


def test_directories_in_directories_come_to_an_end(tmp_path):
    """An archive may hold thousands of them."""
    deep = tmp_path
    for _ in range(900):
        deep /= "d"
        deep.mkdir()
    assert "is no image: it holds d" in refused(tmp_path)


def test_a_link_is_not_followed_to_an_image(tmp_path):
    came = tmp_path / "came"
    came.mkdir()
    (came / "image").symlink_to(file(tmp_path, sif()))
    assert "is no image: it holds image" in refused(came)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "it holds nothing"),
        (("oci-layout", "index.json"), "OCI blobs"),
        (("manifest.json", "repositories"), "docker save"),
        (tuple(f"{number}.py" for number in range(20)), "it holds 0.py, 1.py, 10.py"),
    ],
)
def test_a_directory_that_is_no_image(tmp_path, names, words):
    came = tmp_path / "came"
    came.mkdir()
    for name in names:
        (came / name).touch()
    said = refused(came)
    assert words in said
    assert len(said) < 200


@pytest.mark.parametrize(("name", "order"), [("arm64", "<"), ("riscv64", "<"), ("s390x", ">"), ("ppc64", ">")])
def test_a_sandbox_for_another_machine(tmp_path, name, order):
    assert refused(sandbox(tmp_path / "box", program(name, order))).startswith(f"is made for {name} machines")


def test_what_a_little_endian_power_is_called(tmp_path):
    assert "ppc64le" in refused(sandbox(tmp_path / "box", program("ppc64", "<")))


@pytest.mark.parametrize("shell", [b"#!/bin/other\n", b"\x7fELF", b"x"])
def test_a_sandbox_that_does_not_tell_is_tried(tmp_path, shell):
    assert look(sandbox(tmp_path / "box", shell)).form == "sandbox"


def test_a_link_of_a_sandbox_leads_nowhere_else(tmp_path):
    """The host's own shell says nothing about the image."""
    box = sandbox(tmp_path / "box")
    (tmp_path / "host-sh").write_bytes(program("riscv64"))
    (box / "usr/bin/sh").unlink()
    for target in (str(tmp_path / "host-sh"), "../../../host-sh", "sh", "/usr/bin/sh"):
        (box / "usr/bin/sh").symlink_to(target)
        assert look(box).form == "sandbox"
        (box / "usr/bin/sh").unlink()


def test_this_machine_by_the_name_that_docker_has_for_it(monkeypatch):
    for machine, name in (("x86_64", "amd64"), ("aarch64", "arm64"), ("s390x", "s390x")):
        monkeypatch.setattr(architecture.platform, "machine", lambda machine=machine: machine)
        assert this_machine() == name
