"""What is particular to objects that are files."""

import errno
import os
import time
from pathlib import Path

import pytest

from studio_runner.errors import (
    ArtifactInvalidError,
    ObjectNotFoundError,
    StorageUnavailableError,
    UnauthorisedError,
)
from studio_runner.storage import draft as draft_module
from studio_runner.storage import threads
from studio_runner.storage.base import Precondition
from studio_runner.storage.draft import STALE
from studio_runner.storage.files import FileStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    (tmp_path / "secret").write_text("not for you")
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> FileStore:
    return FileStore(root)


def read(store: FileStore, key: str) -> bytes:
    with store.read(key) as reading:
        return b"".join(reading)


BAD_KEYS = [
    "../secret",
    "a/../../secret",
    "/etc/passwd",
    "",
    "a//b",
    "a/",
    "./a",
    "a\0b",
    ".",
    "..",
    ".studio-runner-lock",
]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_keys_that_lead_out_are_refused(store: FileStore, root: Path, key: str):
    with pytest.raises(ArtifactInvalidError, match="no key of an object"):
        store.write(key, [b"x"])
    with pytest.raises(ArtifactInvalidError, match="no key of an object"):
        store.info(key)
    with pytest.raises(ArtifactInvalidError, match="no key of an object"):
        store.remove(key)
    assert os.listdir(root) == []


@pytest.mark.parametrize("end", [b"", b"end"])
def test_zeros_take_no_disk(store: FileStore, root: Path, end: bytes):
    pieces = [b"begin", *[bytes(1 << 20)] * 50, end]
    info = store.write("a", pieces)
    status = (root / "a").stat()
    assert (info.size, status.st_size) == (5 + (50 << 20) + len(end),) * 2
    assert status.st_blocks * 512 < 2 << 20
    assert read(store, "a") == b"".join(pieces)


def test_a_linked_lock_makes_no_file_elsewhere(store: FileStore, root: Path, tmp_path: Path):
    (root / ".studio-runner-lock").symlink_to(tmp_path / "made")
    with pytest.raises(StorageUnavailableError):
        store.write("a", [b"x"], when=Precondition(None))
    assert not (tmp_path / "made").exists()


def test_links_that_lead_out_are_refused(store: FileStore, root: Path, tmp_path: Path):
    (root / "out").symlink_to(tmp_path)
    (root / "file").symlink_to(tmp_path / "secret")
    for key in ("out/secret", "file"):
        with pytest.raises(ArtifactInvalidError, match="leads out of the store"):
            store.info(key)
    with pytest.raises(ArtifactInvalidError, match="leads out of the store"):
        store.write("out/new", [b"x"])
    with pytest.raises(ArtifactInvalidError, match="leads out of the store"):
        list(store.entries("out/"))
    assert not (tmp_path / "new").exists()
    assert list(store.entries()) == []


def test_a_put_replaces_a_link_and_not_what_it_leads_to(store: FileStore, root: Path, tmp_path: Path):
    (root / "file").symlink_to(tmp_path / "secret")
    store.write("file", [b"x"])
    assert (tmp_path / "secret").read_text() == "not for you"
    assert read(store, "file") == b"x"


def test_links_within_the_store_work(store: FileStore, root: Path):
    store.write("real/a", [b"x"])
    (root / "way").symlink_to("real")
    (root / "other").symlink_to("real/a")
    assert read(store, "way/a") == b"x"
    assert read(store, "other") == b"x"


def test_the_root_itself_may_be_a_link(tmp_path: Path, root: Path):
    (tmp_path / "link").symlink_to(root)
    FileStore(tmp_path / "link").write("a/b", [b"x"])
    assert (root / "a/b").read_bytes() == b"x"
    assert read(FileStore(tmp_path / "link"), "a/b") == b"x"


def test_a_store_at_the_root_of_the_file_system(tmp_path: Path):
    store = FileStore(Path("/"))
    key = str(tmp_path / "a").lstrip("/")
    store.write(key, [b"x"])
    assert (tmp_path / "a").read_bytes() == b"x"


def test_a_pipe_is_no_object_and_does_not_hang(store: FileStore, root: Path):
    os.mkfifo(root / "pipe")
    with pytest.raises(ObjectNotFoundError):
        store.info("pipe")


def test_no_temporary_file_stays_behind(store: FileStore, root: Path):
    store.write("a/b", [b"x"])

    def failing():
        yield b"x" * 10
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.write("a/b", failing())
    assert os.listdir(root / "a") == ["b"]


@pytest.fixture
def without_unnamed_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has none, such as NFS."""
    real = os.open

    def refusing(path, flags, mode=0o777, *, dir_fd=None):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(draft_module.os, "open", refusing)


@pytest.mark.usefixtures("without_unnamed_files")
def test_file_systems_without_unnamed_files(store: FileStore, root: Path):
    seen = []

    def watched():
        yield b"half"
        seen.extend(os.listdir(root / "a"))
        seen.extend(info.key for info in store.entries())

    store.write("a/b", watched())
    assert read(store, "a/b") == b"half"
    assert os.listdir(root / "a") == ["b"]
    assert len(seen) == 1, "the temporary file is there and is not listed"


@pytest.mark.usefixtures("without_unnamed_files")
def test_temporary_files_of_killed_processes_are_swept(store: FileStore, root: Path):
    stale, fresh = root / ".studio-runner-1.part", root / ".studio-runner-2.part"
    stale.write_bytes(b"x")
    fresh.write_bytes(b"x")
    os.utime(stale, (time.time() - STALE - 1,) * 2)
    store.write("a", [b"x"])
    assert not stale.exists()
    assert fresh.exists(), "somebody is still writing it"


def test_listing_sweeps_and_hides(store: FileStore, root: Path):
    stale = root / ".studio-runner-1.part"
    stale.write_bytes(b"x")
    os.utime(stale, (time.time() - STALE - 1,) * 2)
    store.write("a", [b"x"])
    assert [info.key for info in store.entries()] == ["a"]
    assert not stale.exists()


def refusing(number: int):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named(store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch, number: int):
    store.write("a", [b"old"])
    monkeypatch.setattr(draft_module.os, "write", refusing(number))
    with pytest.raises(StorageUnavailableError, match=f"the disk that holds {root}/a is full") as caught:
        store.write("a", [b"new"])
    assert isinstance(caught.value.__cause__, OSError)
    monkeypatch.undo()
    assert read(store, "a") == b"old"


def test_a_disk_that_cannot_be_read_is_named(store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch):
    store.write("a", [b"old"])
    with store.read("a") as reading:
        monkeypatch.setattr(os, "read", refusing(errno.EIO))
        with pytest.raises(StorageUnavailableError, match=f"{root}/a"):
            next(reading)


def test_a_disk_that_fails_at_the_last_moment_leaves_the_old_object(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
):
    store.write("a", [b"old"])
    monkeypatch.setattr(draft_module.os, "fsync", refusing(errno.EIO))
    with pytest.raises(StorageUnavailableError):
        store.write("a", [b"new"])
    assert read(store, "a") == b"old"
    assert [info.key for info in store.entries()] == ["a"]


def test_a_file_where_a_directory_is_needed(store: FileStore, root: Path):
    store.write("a", [b"x"])
    with pytest.raises(StorageUnavailableError, match="a/b"):
        store.write("a/b", [b"x"])


def test_missing_rights_are_not_a_missing_object(store: FileStore, monkeypatch: pytest.MonkeyPatch):
    # The superuser may read everything, so the refusal itself has to be made.
    store.write("a", [b"x"])
    monkeypatch.setattr(os, "open", refusing(errno.EACCES))
    with pytest.raises(UnauthorisedError, match="/a: Permission denied") as caught:
        store.info("a")
    assert str(os.getuid()) in (caught.value.hint or "")


def test_new_objects_are_shared_as_their_directory_is(store: FileStore, root: Path):
    before = os.umask(0o077)
    try:
        store.write("a", [b"x"])
        root.chmod(0o770)
        store.write("b/c", [b"x"])
    finally:
        os.umask(before)
    assert [(root / name).stat().st_mode & 0o777 for name in ("a", "b", "b/c")] == [0o600, 0o770, 0o660]


async def test_a_small_object_costs_one_thread(store: FileStore, monkeypatch: pytest.MonkeyPatch):
    started = []
    real = threads.start_new_thread
    monkeypatch.setattr(threads, "start_new_thread", lambda *work: (started.append(work), real(*work)))

    async def once():
        yield b"x"

    await store.put("a", once())
    assert len(started) == 1
    assert b"".join([piece async for piece in store.get("a")]) == b"x"
    assert len(started) == 2
