"""What becomes of an image's bytes: the first of them decide, however they arrive."""

import gzip
import hashlib
import io
import os
import tarfile

import pytest

from studio_runner.errors import ArtifactInvalidError, DiskExceededError
from studio_runner.storage.archive import GivenUpError
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.image import ImageReceiver

SIF = b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\0" + os.urandom(5000)


def archive(*members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def file(name, content=b"x", mode=0o644):
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    return member, content


def special(name, kind, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def received(directory, content, piece=1 << 16, budget=None):
    with ImageReceiver(directory, DiskBudget(budget)) as receiver:
        for start in range(0, len(content), piece):
            receiver.feed(content[start : start + piece])
        receiver.close()
    return receiver


def found(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


@pytest.mark.parametrize("piece", [1, 7, 511, 512, 513, 1 << 16])
def test_an_image_file(tmp_path, piece):
    assert received(tmp_path, SIF, piece).sha256 == hashlib.sha256(SIF).hexdigest()
    assert (tmp_path / "image").read_bytes() == SIF
    assert found(tmp_path) == ["image"]


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
@pytest.mark.parametrize("piece", [1, 513, 1 << 16])
def test_an_archive(tmp_path, packed, piece):
    content = packed(archive(file("./box.sif", SIF)))
    assert received(tmp_path, content, piece).sha256 == hashlib.sha256(content).hexdigest()
    assert (tmp_path / "box.sif").read_bytes() == SIF


def test_old_file_systems_begin_with_zeros(tmp_path):
    received(tmp_path, bytes(1080) + b"\x53\xef" + bytes(1000))
    assert found(tmp_path) == ["image"]


@pytest.mark.parametrize("content", [b"", b"x", bytes(511)])
def test_what_is_too_short_for_anything(tmp_path, content):
    with pytest.raises(ArtifactInvalidError, match=f"is no image: it has {len(content)} bytes"):
        received(tmp_path, content)


def test_a_root_file_system_keeps_its_links_and_has_no_devices(tmp_path):
    received(
        tmp_path,
        archive(
            file("bin/busybox", mode=0o4755),
            special("bin/sh", tarfile.SYMTYPE, "/bin/busybox"),
            special("etc/mtab", tarfile.SYMTYPE, "../../../proc/mounts"),
            special("dev/sda", tarfile.BLKTYPE),
            special("dev/mem", tarfile.CHRTYPE),
            special("run/pipe", tarfile.FIFOTYPE),
            special("bin/box", tarfile.LNKTYPE, "bin/busybox"),
        ),
    )
    assert os.readlink(tmp_path / "bin/sh") == "/bin/busybox"
    assert os.readlink(tmp_path / "etc/mtab") == "../../../proc/mounts"
    assert (tmp_path / "bin/box").samefile(tmp_path / "bin/busybox")
    assert not (tmp_path / "bin/busybox").stat().st_mode & 0o6000
    assert found(tmp_path) == ["bin", "bin/box", "bin/busybox", "bin/sh", "etc", "etc/mtab"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_nothing_leads_out_while_it_is_unpacked(tmp_path, kind):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "secret").write_text("secret")
    members = [special("way", kind, str(outside)), file("way/file")]
    if kind == tarfile.LNKTYPE:
        members = [special("copy", kind, "../outside/secret")]
    with pytest.raises(ArtifactInvalidError):
        received(inside, archive(*members))
    assert found(outside) == ["secret"]
    assert not (inside / "copy").exists()


@pytest.mark.parametrize("content", [SIF, archive(file("box.sif", SIF))])
def test_the_budget_is_kept(tmp_path, content):
    with pytest.raises(DiskExceededError):
        received(tmp_path, content, budget=1000)


def test_who_gives_up_gets_no_further(tmp_path):
    with ImageReceiver(tmp_path, DiskBudget(None)) as receiver:
        receiver.feed(SIF)
        receiver.give_up()
        with pytest.raises(GivenUpError):
            receiver.feed(SIF)
