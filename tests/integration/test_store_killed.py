"""A process that is killed in the middle of a put: readers see the old object or the new one, whole."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from studio_runner.storage.archive import Unpacker
from studio_runner.storage.base import CHUNK
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.files import FileStore

WRITER = """
import sys, time
from pathlib import Path
from studio_runner.storage.archive import pack
from studio_runner.storage.files import FileStore

def slowly():
    for number, piece in enumerate(pack(Path(sys.argv[2]))):
        yield piece
        print(number, flush=True)
        time.sleep(float(sys.argv[3]))

FileStore(Path(sys.argv[1])).write("k/output.tar", slowly())
print("done", flush=True)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/data").write_bytes(b"new" * (3 * CHUNK))
    return tmp_path / "source"


def writer(store: Path, source: Path, pause: float) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", WRITER, str(store), str(source), str(pause)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def content(store: FileStore) -> bytes:
    with store.read("k/output.tar") as reading:
        return b"".join(reading)


@pytest.mark.parametrize("pieces", [1, 4, 8])
def test_killed_while_writing(tmp_path: Path, source: Path, pieces: int):
    root = tmp_path / "store"
    store = FileStore(root)
    store.write("k/output.tar", [b"old"])
    process = writer(root, source, 0.2)
    assert process.stdout is not None
    for _ in range(pieces):
        assert process.stdout.readline().strip().isdigit()
    kill(process)
    assert content(store) == b"old"
    assert [info.key for info in store.entries()] == ["k/output.tar"]
    assert os.listdir(root / "k") == ["output.tar"], "a temporary file stayed behind"


def test_killed_at_any_moment_it_is_old_or_new(tmp_path: Path, source: Path):
    root = tmp_path / "store"
    store = FileStore(root)
    whole = 0
    for attempt in range(12):
        store.write("k/output.tar", [b"old"])
        process = writer(root, source, 0.002)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(attempt * 0.002)
        kill(process)
        found = content(store)
        if found != b"old":
            target = tmp_path / f"target-{attempt}"
            target.mkdir()
            with Unpacker(target, DiskBudget(None)) as unpacker:
                unpacker.feed(found)
                unpacker.close()
            assert (target / "data").read_bytes() == (source / "data").read_bytes()
            whole += 1
    assert whole < 12, "no kill came in time to prove anything"


def test_two_processes_cannot_both_win(tmp_path: Path):
    store = tmp_path / "store"
    program = """
import sys
from pathlib import Path
from studio_runner.errors import PreconditionFailedError
from studio_runner.storage.base import Precondition
from studio_runner.storage.files import FileStore
store = FileStore(Path(sys.argv[1]))
sys.stdin.readline()
won = 0
for number in range(50):
    try:
        store.write(f"claims/{number}", [sys.argv[2].encode()], when=Precondition(None))
    except PreconditionFailedError:
        continue
    won += 1
print(won)
"""
    argv = [sys.executable, "-c", program, str(store)]
    contenders = [
        subprocess.Popen([*argv, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name in "abc"
    ]
    for contender in contenders:
        assert contender.stdin is not None
        contender.stdin.write("go\n")
        contender.stdin.flush()
    won = {name: int(contender.communicate()[0]) for name, contender in zip("abc", contenders, strict=True)}
    assert sum(won.values()) == 50
    owners = [Path(store / f"claims/{number}").read_text() for number in range(50)]
    assert {name: owners.count(name) for name in "abc"} == won
