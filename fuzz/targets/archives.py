"""Archives, hostile ones among them: nothing is written outside their directory, nor more than the budget."""

import bz2
import io
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from fuzz.picks import Picks
from fuzz.target import noise
from studio_runner.errors import ArtifactInvalidError, DiskExceededError, StorageUnavailableError
from studio_runner.storage.archive import Unpacker, pack
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.compression import Compression, compress
from studio_runner.storage.document import document_in
from studio_runner.storage.extract import ARTIFACT
from studio_runner.storage.tar import Member, encode, padding

MAX_LEN = 4096
WORDS = (b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"ustar\0", b"ustar  \0", b"../", b"GNU.sparse.")
BUDGET = 1 << 20
_MEMORY = Path("/dev/shm")
_NAMES = (
    *(b"a", b"b", b"a/b", b"a/b/c", b"./a", b"../a", b"/a", b"a/../b", b"a/", b"", b".", b"..", b"link/x", b"link"),
    *(b"x" * 99, b"y" * 300, b"d/" * 60 + b"e", b"\xff\xfe", b"a\nb", b"../outside/kept"),
)
_TARGETS = (
    b"a",
    b"..",
    b"../outside",
    b"/etc",
    b".",
    b"a/../..",
    b"link",
    b"../a",
    b"",
    b"a/b",
    b"../outside/kept",
)
_RECORDS = (
    *(b"30 path=../../outside/kept\n", b"18 mtime=-1234.5\n", b"10 mtime=\n", b"23 mtime=1e9999999999\n"),
    *(b"11 size=5\n", b"13 size=-12\n", b"30 size=99999999999999999999\n", b"20 linkpath=../../a\n"),
    *(b"22 GNU.sparse.major=1\n", b"99999999999 path=a\n"),
)
_KINDS = (*(b"0", b"0", b"0", b"5", b"2", b"1"), *(bytes([kind]) for kind in b"03467xgLKVSMD\0"))


def _gzipped(data: bytes) -> bytes:
    packer = zlib.compressobj(1, wbits=31)
    return packer.compress(data) + packer.flush()


_PACKERS: tuple[Callable[[bytes], bytes], ...] = (
    *(bytes, _gzipped, lambda data: bz2.compress(data, 1), lambda data: lzma.compress(data, preset=0)),
    lambda data: b"".join(compress((data,), Compression.ZSTD)),
)


def seeds() -> Iterable[bytes]:
    plain = _real(tarfile.GNU_FORMAT)
    yield from (b"\0\x10\0" + kind for kind in (plain, _real(tarfile.PAX_FORMAT), _real(tarfile.USTAR_FORMAT)))
    yield from (b"\0\x10\0" + kind for kind in (_gzipped(plain), bz2.compress(plain), lzma.compress(plain)))
    yield from (b"\x01" + piece for piece in noise(40, 200))


def check(data: bytes) -> None:
    picks = Picks(data)
    made = picks.flag()
    step = 1 + picks.below(2048)
    archive = _archive(picks) if made else picks.rest()
    assert len(document_in(archive, "b", BUDGET)) <= BUDGET
    root = Path(tempfile.mkdtemp(dir=_MEMORY if _MEMORY.is_dir() else None))
    try:
        _unpack(archive, step, root)
    finally:
        shutil.rmtree(root)


def _unpack(archive: bytes, step: int, root: Path) -> None:
    inside, outside = root / "inside", root / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "kept").write_bytes(b"kept")
    budget = DiskBudget(BUDGET)
    try:
        with Unpacker(inside, budget) as unpacker:
            for at in range(0, len(archive), step):
                unpacker.feed(archive[at : at + step])
            unpacker.close()
        whole = True
    except (ArtifactInvalidError, DiskExceededError, StorageUnavailableError) as error:
        str(error)
        whole = False
    assert sorted(os.listdir(root)) == ["inside", "outside"]
    assert os.listdir(outside) == ["kept"]
    assert (outside / "kept").read_bytes() == b"kept"
    assert (outside / "kept").stat().st_nlink == 1
    assert _size(inside) <= budget.used <= BUDGET
    if whole:
        _there_and_back(inside, root / "again")


def _size(place: Path) -> int:
    """Bytes of its files, each counted once; every link in it leads to something in it."""
    sizes, top = {}, os.path.realpath(place)
    for directory, names, files in os.walk(place):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                leads = os.path.realpath(path)
                assert leads == top or leads.startswith(top + "/"), (path, os.readlink(path))
            elif stat.S_ISREG(status.st_mode):
                sizes[status.st_ino] = status.st_size
            else:
                assert stat.S_ISDIR(status.st_mode), path
    return sum(sizes.values())


def _there_and_back(inside: Path, again: Path) -> None:
    again.mkdir()
    packed = b"".join(pack(inside, mtime=0, note=lambda _: None, rules=ARTIFACT))
    with Unpacker(again, DiskBudget(None)) as unpacker:
        unpacker.feed(packed)
        unpacker.close()
    assert b"".join(pack(again, mtime=0, note=lambda _: None)) == packed


def _archive(picks: Picks) -> bytes:
    """Members one after the other, compressed, cut off or damaged here and there."""
    pack_up, end, cut, damage = (
        picks.one(_PACKERS),
        picks.one((1024, 512, 0, 10240)),
        picks.below(4),
        picks.below(4),
    )
    places = [picks.below(1 << 16) for _ in range(4)]
    packed = bytearray(pack_up(b"".join(_members(picks)) + bytes(end)))
    if not cut:
        del packed[places[0] % (len(packed) + 1) :]
    for place in places[1:damage]:
        if packed:
            packed[place % len(packed)] ^= 1 + place % 255
    return bytes(packed)


def _members(picks: Picks) -> Iterator[bytes]:
    while picks:
        name, kind = picks.one(_NAMES), picks.one(_KINDS)
        content = picks.one((b"", b"x" * picks.below(2000), picks.one(_RECORDS), picks.some(64)))
        size = len(content) if picks.below(8) else picks.below(1 << 32)
        member = Member(name, kind, picks.below(0o10000), size, picks.below(1 << 40) * 10**6, picks.one(_TARGETS))
        yield encode(member) + content + bytes(padding(len(content)))


def _real(form: int) -> bytes:
    """As Python's own tarfile writes it."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        for name, kind, link in (
            ("a", tarfile.DIRTYPE, ""),
            ("a/b", tarfile.REGTYPE, ""),
            ("c", tarfile.SYMTYPE, "a/b"),
        ):
            info = tarfile.TarInfo(name)
            info.mtime = 1234.5  # which takes a header of its own in pax
            info.type, info.linkname, info.size = kind, link, 3 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"abc"))
    return target.getvalue().rstrip(b"\0") + bytes(1024)
