"""Packing a directory and unpacking it again, with ourselves, with tarfile and with tar."""

import hashlib
import io
import os
import random
import socket
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studio_runner.errors import ArtifactInvalidError, StorageUnavailableError
from studio_runner.storage import archive
from studio_runner.storage.archive import Unpacker, pack, pack_file
from studio_runner.storage.base import CHUNK
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.compression import Compression
from studio_runner.storage.scan import fingerprint

BLOCKS = [0, 1, 511, 512, 513, 1023, 1024, 1025]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def unpack(data: bytes, target: Path, step: int = 65_536) -> None:
    with Unpacker(target, DiskBudget(None)) as unpacker:
        for at in range(0, len(data), step):
            unpacker.feed(data[at : at + step])
        unpacker.close()


def packed(directory: Path, compression: Compression = Compression.NONE, **options) -> bytes:
    return b"".join(pack(directory, compression, **options))


def tree(directory: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything below `directory`: kind and mode, content or target, whole seconds of modification."""
    found: dict[bytes, tuple[object, ...]] = {}
    for at, directories, files in os.walk(os.fsencode(directory)):
        for name in directories + files:
            path = os.path.join(at, name)
            status = os.lstat(path)
            relative = os.path.relpath(path, os.fsencode(directory))
            if stat.S_ISLNK(status.st_mode):
                found[relative] = ("link", os.readlink(path))
            elif stat.S_ISDIR(status.st_mode):
                found[relative] = ("directory", stat.S_IMODE(status.st_mode))
            else:
                content = Path(os.fsdecode(path)).read_bytes()
                found[relative] = (stat.S_IMODE(status.st_mode), content, int(status.st_mtime))
    return found


def fill(directory: Path) -> None:
    """A bit of everything that an artifact may hold."""
    (directory / "sub/deeper").mkdir(parents=True)
    (directory / "empty").mkdir()
    for size in BLOCKS:
        (directory / "sub" / f"size-{size}").write_bytes(random.Random(size).randbytes(size))
    (directory / "script.py").write_text("print('hello')\n")
    (directory / "script.py").chmod(0o755)
    (directory / "sub/deeper/日本 é.txt").write_text("unicode")
    (directory / ("long" * 40)).mkdir()
    (directory / ("long" * 40) / ("name" * 50)).write_text("long name")
    (directory / "old").write_text("x")
    os.utime(directory / "old", (1, 1))
    (directory / "link").symlink_to("sub/size-1")
    (directory / "dangling").symlink_to("nowhere/at/all")
    (directory / "sub/up").symlink_to("../script.py")
    (directory / "long-link").symlink_to("t" * 200)


NAME = st.binary(min_size=1, max_size=120).filter(
    lambda name: not set(name) & set(b"/\0") and name not in (b".", b"..")
)
TREES = st.dictionaries(
    st.lists(NAME, min_size=1, max_size=3).map(tuple),
    st.sampled_from([*BLOCKS, 5000]).flatmap(lambda size: st.binary(min_size=size, max_size=size)),
    max_size=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(files=TREES, kind=st.sampled_from(Compression), step=st.sampled_from([7, 512, 1000, 1 << 20]))
def test_whatever_is_packed_is_unpacked(tmp_path: Path, files: dict, kind: Compression, step: int):
    base = tmp_path / str(len(os.listdir(tmp_path)))
    source, target = base / "source", base / "target"
    source.mkdir(parents=True)
    target.mkdir()
    for steps, content in files.items():
        path = os.path.join(os.fsencode(source), *steps)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            continue  # the name is taken by a directory, or by a file
    unpack(packed(source, kind), target, step)
    assert tree(target) == tree(source)


@pytest.mark.parametrize("kind", Compression)
def test_a_bit_of_everything(source: Path, target: Path, kind: Compression):
    fill(source)
    unpack(packed(source, kind), target)
    assert tree(target) == tree(source)


@pytest.mark.parametrize("kind", Compression)
def test_tar_unpacks_what_we_packed(source: Path, target: Path, kind: Compression, tmp_path: Path):
    fill(source)
    made = tmp_path / f"archive.tar{'.' + kind.value if kind else ''}"
    made.write_bytes(packed(source, kind))
    if kind is Compression.ZSTD:  # tar needs the zstd program for it
        made.write_bytes(packed(source))
    done = subprocess.run(["tar", "-xpf", made, "-C", target], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    assert tree(target) == tree(source)


@pytest.mark.parametrize("dialect", ["v7", "ustar", "gnu", "oldgnu", "posix"])
@pytest.mark.parametrize("start", [".", "*"])
def test_we_unpack_what_tar_packed(source: Path, target: Path, tmp_path: Path, dialect: str, start: str):
    fill(source)
    if dialect in ("v7", "ustar"):
        (source / "long-link").unlink()
        (source / ("long" * 40) / ("name" * 50)).unlink()
        (source / ("long" * 40)).rmdir()
    os.link(source / "script.py", source / "sub/hard")
    made = tmp_path / "archive.tar"
    names = ["."] if start == "." else sorted(os.listdir(source))
    subprocess.run(["tar", f"--format={dialect}", "-cf", made, *names], cwd=source, check=True)
    unpack(made.read_bytes(), target)
    assert tree(target) == tree(source)
    assert (target / "sub/hard").stat().st_nlink == 2


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("dialect", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_we_unpack_what_tarfile_packed(source: Path, target: Path, mode: str, dialect: int):
    fill(source)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=dialect) as out:
        out.add(source, arcname="")
    unpack(buffer.getvalue(), target)
    assert tree(target) == tree(source)


def test_a_single_file_of_an_older_client(source: Path, target: Path):
    unpack(pack_file("model.h5", b"weights" * 1000), target)
    assert (target / "model.h5").read_bytes() == b"weights" * 1000


def test_an_empty_directory(source: Path, target: Path):
    unpack(packed(source), target)
    assert os.listdir(target) == []


def test_the_same_content_gives_the_same_bytes(tmp_path: Path):
    digests = set()
    for name, order, umask in (("a", 1, 0o022), ("b", -1, 0o077)):
        root = tmp_path / name
        before = os.umask(umask)
        try:
            for entry in ["z/1", "z/2", "a.py", "z.py", "m/n/o"][::order]:
                (root / entry).parent.mkdir(parents=True, exist_ok=True)
                (root / entry).write_text(entry)
        finally:
            os.umask(before)
        os.utime(root / "a.py", (order + 5, order + 5))
        digests.add(hashlib.sha256(packed(root, Compression.GZIP, mtime=0)).hexdigest())
    assert len(digests) == 1


def test_a_script_stays_executable_in_a_reproducible_archive(source: Path):
    (source / "run.sh").write_text("#!/bin/sh")
    (source / "run.sh").chmod(0o700)
    (source / "data").write_text("x")
    (source / "data").chmod(0o600)
    (source / "d").mkdir(mode=0o700)
    members = members_of(packed(source, mtime=0))
    assert {member.name: (member.mode, member.mtime) for member in members} == {
        "run.sh": (0o755, 0),
        "data": (0o644, 0),
        "d": (0o755, 0),
    }


def members_of(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        return opened.getmembers()


def names(data: bytes) -> list[str]:
    return [member.name for member in members_of(data)]


def test_keep_decides_what_goes_in(source: Path):
    fill(source)
    asked: list[tuple[str, bool]] = []

    def keep(path: str, is_directory: bool) -> bool:  # noqa: FBT001 - the shape of Keep
        asked.append((path, is_directory))
        return path in ("sub", "sub/size-1", "script.py")

    assert names(packed(source, keep=keep)) == ["script.py", "sub", "sub/size-1"]
    assert ("sub", True) in asked
    assert ("script.py", False) in asked
    assert not any(path.startswith("empty/") for path, _ in asked)


def test_sockets_and_pipes_are_left_out_with_a_note(source: Path):
    os.mkfifo(source / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(source / "socket"))
    (source / "file").write_text("x")
    notes: list[str] = []
    assert names(packed(source, note=notes.append)) == ["file"]
    assert len(notes) == 2
    assert all("is left out" in note for note in notes)


def test_links_that_lead_out_are_left_out_with_a_note(source: Path):
    (source / "out").symlink_to("/etc/passwd")
    (source / "up").symlink_to("../elsewhere")
    (source / "in").symlink_to(source / "model-3")
    (source / "d").mkdir()
    (source / "d/in").symlink_to(source / "model-3")
    notes: list[str] = []
    members = members_of(packed(source, note=notes.append))
    assert {member.name: member.linkname for member in members} == {"d": "", "in": "model-3", "d/in": "../model-3"}
    assert notes == [
        "out is left out: it links to /etc/passwd, outside the artifact",
        "up is left out: it links to ../elsewhere, outside the artifact",
    ]


def test_what_we_pack_we_take_back(source: Path, target: Path):
    (source / "d").mkdir()
    (source / "d/absolute").symlink_to(source / "d")
    (source / "outside").symlink_to("/")
    unpack(packed(source, note=lambda _: None), target)
    assert tree(target) == {b"d": ("directory", 0o755), b"d/absolute": ("link", b"../d")}


def changing(directory: Path, change) -> Iterator[bytes]:
    """Pack, and make a change after the first piece."""
    pieces = pack(directory)
    yield next(pieces)
    change()
    yield from pieces


def test_a_file_that_shrinks_gives_a_valid_archive(source: Path, target: Path):
    (source / "a").write_bytes(b"x" * (3 * CHUNK))
    unpack(b"".join(changing(source, lambda: os.truncate(source / "a", CHUNK // 2))), target)
    content = (target / "a").read_bytes()
    assert len(content) == 3 * CHUNK
    assert content.rstrip(b"\0") in (b"x" * CHUNK, b"x" * (CHUNK // 2))


def test_a_file_that_grows_gives_a_valid_archive(source: Path, target: Path):
    (source / "a").write_bytes(b"x" * (2 * CHUNK))
    (source / "b").write_text("after")

    def grow() -> None:
        with open(source / "a", "ab") as file:
            file.write(b"y" * CHUNK)

    unpack(b"".join(changing(source, grow)), target)
    assert (target / "a").read_bytes() == b"x" * (2 * CHUNK)
    assert (target / "b").read_text() == "after"


def test_what_vanishes_is_not_in_the_archive(source: Path, target: Path):
    for name in "abcd":
        (source / name).mkdir()
        (source / name / "file").write_bytes(b"x" * (2 * CHUNK))
    (source / "d/link").symlink_to("file")

    def vanish() -> None:
        (source / "b/file").unlink()
        (source / "c/file").unlink()
        (source / "c").rmdir()
        (source / "d/link").unlink()

    unpack(b"".join(changing(source, vanish)), target)
    assert (target / "a/file").exists()
    assert not (target / "b/file").exists()
    assert not (target / "c/file").exists()


def test_a_directory_that_becomes_a_link_is_not_followed(source: Path, target: Path, tmp_path: Path):
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/key").write_text("secret")
    (source / "a").write_bytes(b"x" * (2 * CHUNK))
    (source / "d").mkdir()
    (source / "d/key").write_text("own")

    def swap() -> None:
        (source / "d/key").unlink()
        (source / "d").rmdir()
        (source / "d").symlink_to(tmp_path / "secrets")

    data = b"".join(changing(source, swap))
    assert b"secret" not in data
    unpack(data, target)


def test_an_unreadable_file_is_named(source: Path, monkeypatch: pytest.MonkeyPatch):
    # The superuser may read everything, so the refusal itself has to be made.
    (source / "d").mkdir()
    (source / "d/secret").write_text("x")
    real = os.open

    def refusing(path, flags, mode=0o777, *, dir_fd=None):
        if path == "secret":
            raise PermissionError(13, "Permission denied")
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(archive.os, "open", refusing)
    with pytest.raises(ArtifactInvalidError, match="cannot read d/secret: Permission denied"):
        packed(source)


def test_a_disk_that_cannot_be_read_is_not_the_artifacts_fault(source: Path, monkeypatch: pytest.MonkeyPatch):
    (source / "a").write_text("x")

    def broken(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(archive.os, "read", broken)
    with pytest.raises(StorageUnavailableError, match="a: Input/output error"):
        packed(source)


def test_a_sparse_file_is_packed_as_it_reads(source: Path, target: Path):
    with open(source / "sparse", "wb") as file:
        file.write(b"start")
        file.truncate(20 * CHUNK)
    unpack(packed(source), target)
    assert (target / "sparse").read_bytes() == b"start" + bytes(20 * CHUNK - 5)


def test_pieces_stay_small(source: Path):
    (source / "big").write_bytes(bytes(5 * CHUNK))
    for number in range(50):
        (source / str(number)).write_bytes(bytes(100_000))
    assert max(len(piece) for piece in pack(source)) < 3 * CHUNK


def test_descriptors_are_closed_when_packing_is_left_early(source: Path):
    fill(source)
    (source / "a-big-one").write_bytes(bytes(5 * CHUNK))
    before = os.listdir("/proc/self/fd")
    pieces = pack(source)
    next(pieces)
    pieces.close()
    assert os.listdir("/proc/self/fd") == before


def test_fingerprints_see_every_change(source: Path):
    fill(source)
    seen = {fingerprint(source).digest}

    def changed() -> bool:
        digest = fingerprint(source).digest
        new = digest not in seen
        seen.add(digest)
        return new

    assert not changed()
    (source / "sub/size-1").write_bytes(b"xx")
    assert changed()
    os.utime(source / "old", ns=(5, 5))
    assert changed()
    (source / "script.py").chmod(0o700)
    assert changed()
    (source / "empty").rmdir()
    assert changed()
    (source / "old").rename(source / "older")
    assert changed()
    (source / "copy").write_text("x")
    os.utime(source / "copy", ns=(5, 5))
    assert changed()
    (source / "copy").replace(source / "older")
    assert changed()
    assert not changed()
