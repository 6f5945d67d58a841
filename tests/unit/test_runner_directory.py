import os
import subprocess
import sys
import time

import pytest

from studio_runner.errors import StorageUnavailableError
from studio_runner.process.hidden import places_of
from studio_runner.runner.directory import (
    Premises,
    clear_dead_runners,
    clear_notes,
    leftovers,
    occupied,
    remove,
)


def test_attempts_get_directories_of_their_own(tmp_path):
    with occupied(tmp_path, "me") as premises:
        first = premises.create("key", 1)
        second = premises.create("key", 1)
        assert first.name == "key.1"
        assert second.name == "key.2"
        assert first.stat().st_mode & 0o777 == 0o700
        assert premises.tag(first) == "me/key.1"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_leaves_no_directory_behind(tmp_path):
    (tmp_path / "experiments").mkdir()
    full = os.open("/dev/full", os.O_RDWR)
    try:
        with pytest.raises(StorageUnavailableError, match="No space left"):
            Premises(tmp_path, "me", full).create("key", 1)
    finally:
        os.close(full)
    assert list((tmp_path / "experiments").iterdir()) == []


def test_half_a_line_of_a_full_disk_does_not_hide_the_next_one(tmp_path):
    with occupied(tmp_path, "me") as premises:
        os.write(premises._descriptor, b"key.")
        premises.create("key", 1)
        assert leftovers(tmp_path) == []


def test_what_the_living_own_is_no_leftover(tmp_path):
    with occupied(tmp_path, "me") as premises:
        premises.create("key", 1)
        assert leftovers(tmp_path) == []


def test_what_a_killed_runner_owned_is_found_with_its_tag(tmp_path):
    program = (
        "import os, sys, pathlib\n"
        "from studio_runner.runner.directory import occupied\n"
        "with occupied(pathlib.Path(sys.argv[1]), 'dead') as premises:\n"
        "    premises.create('key', 1)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    with occupied(tmp_path, "me") as premises:
        mine = premises.create("key", 1)
        (found,) = leftovers(tmp_path)
        assert found.path.name == "key.1"
        assert found.tag == "dead/key.1"
        assert mine.name == "key.2"
        remove(found.path)
        clear_dead_runners(tmp_path)
        assert [path.name for path in (tmp_path / "runners").iterdir()] == ["me"]
        assert leftovers(tmp_path) == []


def test_a_directory_of_nobody_is_a_leftover_only_when_it_is_old(tmp_path):
    with occupied(tmp_path, "me"):
        path = tmp_path / "experiments" / "stray.1"
        path.mkdir()
        assert leftovers(tmp_path) == []
        long_ago = time.time() - 3600
        os.utime(path, (long_ago, long_ago))
        assert [found.path for found in leftovers(tmp_path)] == [path]


def test_the_list_of_what_is_owned_does_not_grow_for_ever(tmp_path):
    with occupied(tmp_path, "me") as premises:
        for _ in range(100):
            premises.remove(premises.create("key", 1))
        assert (tmp_path / "runners" / "me").stat().st_size == 0


def test_a_full_or_read_only_disk_is_said_with_the_place(tmp_path):
    with occupied(tmp_path, "me") as premises:
        (tmp_path / "experiments").rmdir()
        (tmp_path / "experiments").write_text("in the way")
        with pytest.raises(StorageUnavailableError, match="experiments"):
            premises.create("key", 1)


def test_removes_whatever_a_script_may_leave(tmp_path):
    root = tmp_path / "attempt"
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "a" / "b" / "file").write_text("x")
    (root / "link").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    (tmp_path / "kept").write_text("x")
    (root / "a" / "b").chmod(0)
    (root / "a").chmod(0o500)
    remove(root)
    assert not root.exists()
    assert (tmp_path / "kept").exists()


def test_removes_a_tree_deeper_than_any_path_or_recursion(tmp_path):
    root = tmp_path / "attempt"
    root.mkdir()
    descriptor = os.open(root, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deeper", dir_fd=descriptor)
        inner = os.open("deeper", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    remove(root)
    assert not root.exists()


def test_what_is_noted_of_an_output_goes_with_its_attempt(tmp_path):
    with occupied(tmp_path, "me") as premises:
        ours = premises.create("key", 1)
        for place in (places_of(ours), places_of(ours.with_name("gone.1"))):
            place.touch()
        clear_notes(tmp_path)
        assert [path.name for path in (tmp_path / "hidden").iterdir()] == ["key.1"]
        premises.remove(ours)
        assert list((tmp_path / "hidden").iterdir()) == []
