"""Archives that want out, or too much. Each is made by tarfile, which writes whatever it is told."""

import bz2
import io
import os
import re
import resource
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studio_runner.errors import ArtifactInvalidError, DiskExceededError, StorageUnavailableError
from studio_runner.storage import extract
from studio_runner.storage.archive import Unpacker
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.links import confined
from studio_runner.storage.scan import fingerprint
from studio_runner.storage.tar import END, Member, encode


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """The directory that is unpacked into; `outside` beside it must stay as it is."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/victim").write_text("untouched")
    (tmp_path / "inside").mkdir()
    return tmp_path / "inside"


@pytest.fixture(autouse=True)
def nothing_outside_changes(inside: Path):
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert (inside.parent / "outside/victim").read_text() == "untouched"
    assert sorted(os.listdir(inside.parent)) == ["inside", "outside"]
    assert os.listdir(inside.parent / "outside") == ["victim"]
    assert set(os.listdir("/proc/self/fd")) <= before, "a descriptor stayed open"


def file(name: str, content: bytes = b"x", **changes) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.size = len(content)
    for key, value in changes.items():
        setattr(made, key, value)
    return made, content


def special(name: str, kind: bytes, target: str = "", **changes) -> tuple[tarfile.TarInfo, bytes]:
    return file(name, b"", type=kind, linkname=target, **changes)


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return special(name, tarfile.SYMTYPE, target)


def hard(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return special(name, tarfile.LNKTYPE, target)


def directory(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    return special(name, tarfile.DIRTYPE, mode=mode)


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as out:
        for made, content in members:
            out.addfile(made, io.BytesIO(content))
    return buffer.getvalue()


def unpack(inside: Path, *members: tuple[tarfile.TarInfo, bytes], budget: DiskBudget | None = None) -> None:
    with Unpacker(inside, budget or DiskBudget(None)) as unpacker:
        unpacker.feed(archive(*members))
        unpacker.close()


ABSOLUTE = "/etc/studio-runner-was-here"
REFUSED = {
    "absolute name": ([file(ABSOLUTE)], "member /etc/studio-runner-was-here has an absolute name"),
    "absolute name at the top": ([file("a"), file("/b")], "member /b has an absolute name"),
    "absolute directory": ([directory(ABSOLUTE)], "absolute name"),
    "climbing": ([file("../outside/victim")], "leads out of its directory"),
    "climbing later": ([file("a/../../outside/victim")], "leads out of its directory"),
    "climbing within": ([file("a/b"), file("a/../c")], "leads out of its directory"),
    "climbing as a name": ([file("a/..")], "leads out of its directory"),
    "climbing directory": ([directory("../outside/new")], "leads out of its directory"),
    "no name": ([file("./")], "has no name"),
    "a file called dot": ([file(".")], "has no name"),
    "link to an absolute path": ([link("a", "/etc")], "member a links to /etc, which is outside"),
    "link that climbs": ([link("a", "../outside")], "links to ../outside, which is outside"),
    "link that climbs too far": ([link("d/a", "../../outside")], "which is outside"),
    "link that climbs late": ([link("a", "x/../../outside")], "which is outside"),
    "link without a target": ([link("a", "")], "which is outside"),
    "through a link": (
        [link("a", "b"), directory("b"), file("a/f")],
        "member a/f leads through a, which is a link",
    ),
    "through a link to nothing": ([link("a", "b"), file("a/f")], "leads through a, which is a link"),
    "through a deep link": ([link("d/a", "."), file("d/a/f")], "leads through a, which is a link"),
    "through a chain": ([link("a", "b"), link("b", "c"), directory("a/d")], "leads through a"),
    "through a file": ([file("a"), file("a/f")], "leads through a, which is a link or a file"),
    "hard link to an absolute path": ([hard("a", "/etc/passwd")], "which is outside"),
    "hard link that climbs": ([hard("a", "../outside/victim")], "leads out of its directory"),
    "hard link through a link": (
        [directory("d"), file("d/f"), link("l", "d"), hard("a", "l/f")],
        "not in the archive",
    ),
    "hard link to nothing": ([hard("a", "b")], "links to b, which is not in the archive before it"),
    "hard link to itself": ([file("a"), hard("a", "a")], "not in the archive before it"),
    "hard link to a directory": ([directory("d"), hard("a", "d")], "links to d, which is no file"),
    "hard link to the root": ([hard("a", ".")], "not in the archive"),
    "hard link that lifts a link": ([link("d/e/a", "../../x"), hard("b", "d/e/a")], "which is outside"),
    "character device": ([special("a", tarfile.CHRTYPE)], "member a is a device, which is not unpacked"),
    "block device": ([special("a", tarfile.BLKTYPE)], "is a device"),
    "pipe": ([special("a", tarfile.FIFOTYPE)], "is a named pipe"),
    "sparse file": ([special("a", tarfile.GNUTYPE_SPARSE)], "is a sparse file"),
    "sparse file of pax": ([file("a", pax_headers={"GNU.sparse.major": "1"})], "sparse members"),
    "unknown kind": ([special("a", b"Q")], "is of a kind that is not known"),
    "overlong name": ([file("n" * 300)], "this file system cannot have a file of that name"),
    "overlong directory": ([file("n" * 300 + "/f")], "this file system cannot have a file of that name"),
    "overlong path": ([file("a/" * 3000 + "f")], "has a name of 6,001 bytes"),
    "deeper than anybody can walk": ([file("a/" * 300 + "f")], "lies more than 256 directories deep"),
    "overlong target": ([link("a", "t" * 5000)], "this file system cannot have a file of that name"),
    "name with a NUL": ([file("a", pax_headers={"path": "a\0b"})], "a name with a NUL in it"),
    "file over a full directory": ([file("a/f"), file("a")], "would take the place of a directory"),
    "link over a full directory": ([file("a/f"), link("a", "b")], "would take the place of a directory"),
}


@pytest.mark.parametrize(("members", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(inside: Path, members: list[tuple[tarfile.TarInfo, bytes]], message: str):
    with pytest.raises(ArtifactInvalidError, match=re.escape(message)):
        unpack(inside, *members)
    assert not os.path.lexists(ABSOLUTE)


def test_links_cannot_be_chained_out(inside: Path):
    # Each alone stays inside; taken by its words, so does the last, but `deep/up` is the root already.
    unpack(inside, directory("deep/er"), link("deep/er/up", "../.."), link("out", "deep/er/up/../outside/victim"))
    assert os.readlink(inside / "out") == "deep/er/outside/victim"
    assert not (inside / "out").exists()


def test_a_directory_that_becomes_a_link_is_not_written_through(inside: Path):
    with pytest.raises(ArtifactInvalidError, match="leads through d, which is a link"):
        unpack(inside, directory("d"), directory("e"), link("d", "e"), file("d/f"))
    assert os.listdir(inside / "e") == []


def test_a_link_that_becomes_a_file_leaves_its_target_alone(inside: Path):
    unpack(inside, file("target", b"old"), link("a", "target"), file("a", b"new"))
    assert (inside / "target").read_bytes() == b"old"
    assert (inside / "a").read_bytes() == b"new"
    assert not (inside / "a").is_symlink()


def test_a_link_that_becomes_a_directory(inside: Path):
    unpack(inside, directory("b"), link("a", "b"), directory("a"), file("a/f"))
    assert (inside / "a/f").exists()
    assert os.listdir(inside / "b") == []


def test_later_members_win(inside: Path):
    unpack(
        inside, file("a", b"one"), file("a", b"two"), directory("d"), file("d", b"file"), file("e"), directory("e")
    )
    assert (inside / "a").read_bytes() == b"two"
    assert (inside / "d").read_bytes() == b"file"
    assert (inside / "e").is_dir()


def test_a_second_version_of_a_file_does_not_change_its_hard_link(inside: Path):
    unpack(inside, file("a", b"one"), hard("b", "a"), file("a", b"two"))
    assert (inside / "b").read_bytes() == b"one"
    assert (inside / "a").read_bytes() == b"two"


def test_links_inside_are_made(inside: Path):
    unpack(
        inside,
        file("d/f", b"content"),
        link("to-file", "d/f"),
        link("d/back", "../to-file"),
        link("d/root", ".."),
        hard("hard", "./d//f"),
        hard("e/second", "to-file"),
    )
    assert (inside / "d/back").read_bytes() == b"content"
    assert (inside / "hard").stat().st_ino == (inside / "d/f").stat().st_ino
    assert os.path.samefile(inside / "d/root", inside)
    assert os.readlink(inside / "e/second") == "d/f"


def test_special_bits_are_dropped_and_the_owner_may_write(inside: Path):
    unpack(inside, file("a", mode=0o6755), file("b", mode=0o000), directory("d", 0o1777), directory("e", 0o000))
    modes = {name: stat.S_IMODE((inside / name).stat().st_mode) for name in "abde"}
    assert modes == {"a": 0o755, "b": 0o600, "d": 0o777, "e": 0o700}


def test_files_are_ours_whoever_packed_them(inside: Path):
    unpack(inside, file("a", uid=12345, gid=54321, uname="nobody", gname="nogroup"))
    assert (inside / "a").stat().st_uid == os.getuid()


def test_a_directory_that_is_read_only_before_its_children(inside: Path):
    unpack(inside, directory("d", 0o555), file("d/f"), directory("d/e", 0o500), file("d/e/g"))
    assert (inside / "d/e/g").exists()


def test_names_that_are_no_text(inside: Path):
    unpack(inside, file("caf\udce9"), file("a\nb"), file("back\\slash"), file("-rf"), file("~"))
    assert sorted(os.listdir(os.fsencode(inside))) == [b"-rf", b"a\nb", b"back\\slash", b"caf\xe9", b"~"]


def test_spellings_of_the_same_directory(inside: Path):
    unpack(
        inside, directory("./"), file("./a"), file(".//d///b"), file("d/./c"), directory("d//e/"), directory(".")
    )
    assert sorted(path.relative_to(inside).as_posix() for path in inside.rglob("*")) == [
        "a",
        "d",
        "d/b",
        "d/c",
        "d/e",
    ]


def test_absurd_times(inside: Path):
    times = {"a": "-99999999999", "b": "99999999999999999999", "c": "1.5"}
    unpack(inside, *(file(name, pax_headers={"mtime": text}) for name, text in times.items()))
    assert (inside / "a").stat().st_mtime == 0
    assert (inside / "b").exists()
    assert (inside / "c").stat().st_mtime == 1.5


def test_more_members_than_allowed(inside: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(extract, "MEMBERS", 5)
    with pytest.raises(ArtifactInvalidError, match="holds more than 5 files and directories"):
        unpack(inside, *(file(f"f{number}", b"") for number in range(6)))


def test_directories_on_the_way_count_too(inside: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(extract, "MEMBERS", 5)
    with pytest.raises(ArtifactInvalidError, match="holds more than 5"):
        unpack(inside, file("a/b/c/d/e/f"))


def test_deep_trees_do_not_exhaust_descriptors(inside: Path):
    deep = "a/" * (extract.DEPTH - 1)
    soft, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 30, hard_limit))
    try:
        unpack(inside, file(f"{deep}f"), file("b/f"), file(f"{deep}g"))
        assert {path.name for path in inside.rglob("*") if path.is_file()} == {"f", "g"}
        assert fingerprint(inside).entries == extract.DEPTH + 3
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard_limit))


def test_over_budget_is_noticed_before_anything_is_written(inside: Path):
    budget = DiskBudget(1000)
    with pytest.raises(DiskExceededError, match=r"at least 1,100 bytes.*1,000") as caught:
        unpack(inside, file("a", bytes(600)), file("b", bytes(500)), budget=budget)
    assert caught.value.hint
    assert budget.used == 600
    assert not (inside / "b").exists()


def test_one_budget_holds_for_several_archives(inside: Path):
    budget = DiskBudget(1000)
    unpack(inside, file("a", bytes(600)), budget=budget)
    unpack(inside, file("b", bytes(400)), budget=budget)
    with pytest.raises(DiskExceededError):
        unpack(inside, file("c", b"x"), budget=budget)


def test_a_file_that_is_written_again_and_again_counts_each_time(inside: Path):
    with pytest.raises(DiskExceededError):
        unpack(inside, *(file("a", bytes(300)) for _ in range(4)), budget=DiskBudget(1000))


def test_a_huge_promise_is_refused_at_once(inside: Path):
    made, _ = file("a")
    made.size = 1 << 50
    header = made.tobuf(format=tarfile.GNU_FORMAT)
    with Unpacker(inside, DiskBudget(1 << 30)) as unpacker, pytest.raises(DiskExceededError):
        unpacker.feed(header)


def test_a_full_disk_is_named(inside: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*args):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(extract.os, "write", full)
    with pytest.raises(StorageUnavailableError, match=f"the disk that holds {inside} is full"):
        unpack(inside, file("a"))


@pytest.mark.parametrize(
    ("target", "depth", "result"),
    [
        (b"a/b", 0, b"a/b"),
        (b"./a", 0, b"./a"),
        (b"../a", 0, None),
        (b"../a", 1, b"../a"),
        (b"./.././a", 1, b"./.././a"),
        (b"../../a", 1, None),
        (b"a/../b", 0, b"b"),
        (b"a/../../b", 1, b"../b"),
        (b"a/../../b", 0, None),
        (b"../a/../../b", 1, None),
        (b"a/..", 0, b"."),
        (b"..", 0, None),
        (b"..", 1, b".."),
        (b"/a", 9, None),
        (b"//a", 9, None),
        (b"", 0, None),
        (b"...", 0, b"..."),
    ],
)
def test_where_links_may_lead(target: bytes, depth: int, result: bytes | None):
    assert confined(target, depth) == result


STEPS = st.sampled_from(["a", "b", "c", "..", "."])
PATHS = st.lists(STEPS, min_size=1, max_size=4).map("/".join)
MAKERS: st.SearchStrategy[Callable[[str, str], tuple[tarfile.TarInfo, bytes]]] = st.sampled_from(
    [lambda name, _: file(name), lambda name, _: directory(name), link, hard]
)
HOSTILE = st.lists(st.builds(lambda make, name, target: make(name, target), MAKERS, PATHS, PATHS), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(HOSTILE)
def test_whatever_it_holds_every_link_stays_inside(inside: Path, members: list[tuple[tarfile.TarInfo, bytes]]):
    made = inside / str(len(os.listdir(inside)))
    made.mkdir()
    try:
        unpack(made, *members)
    except ArtifactInvalidError as error:
        assert str(error)  # noqa: PT017 - both ends are right, the tree is what counts
    root = os.path.realpath(made)
    for path in made.rglob("*"):
        assert os.path.realpath(path) == root or os.path.realpath(path).startswith(f"{root}/")


def fed(unpacker: Unpacker, archive: bytes) -> None:
    unpacker.feed(archive)
    unpacker.close()


def of_zeros(*heads: bytes) -> bytes:
    """Each head and 100 MiB of zeros, compressed to next to nothing."""
    packer, zeros = bz2.BZ2Compressor(), bytes(1 << 20)
    pieces = [packer.compress(head) + b"".join(packer.compress(zeros) for _ in range(100)) for head in heads]
    return b"".join((*pieces, packer.flush()))


@pytest.mark.parametrize(
    "archive",
    [
        pytest.param(of_zeros(END), id="what follows its end"),
        pytest.param(of_zeros(encode(Member(b"label", b"V", 0, 100 << 20, 0))), id="a label"),
        pytest.param(bz2.compress((encode(Member(b"x", b"x", 0, 1 << 20, 0)) + bytes(1 << 20)) * 70), id="headers"),
    ],
)
def test_a_small_archive_cannot_stand_for_endless_nothing(inside, archive):
    assert len(archive) < 20_000
    with Unpacker(inside, DiskBudget(1 << 20)) as unpacker, pytest.raises(ArtifactInvalidError, match="no part of"):
        fed(unpacker, archive)
