"""Tar headers and streams, against Python's own tarfile."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio_runner.errors import ArtifactInvalidError
from studio_runner.storage.tar import (
    DIRECTORY,
    END,
    FILE,
    HARDLINK,
    SYMLINK,
    Member,
    decode,
    encode,
    padding,
    parse_number,
    pax_records,
)
from studio_runner.storage.untar import TarReader

NAMES = st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name and not name.endswith(b"/"))
MEMBERS = st.builds(
    Member,
    name=NAMES,
    kind=st.just(FILE),
    mode=st.integers(0, 0o777),
    size=st.integers(0, 1 << 62),
    mtime=st.integers(-(1 << 33), 1 << 36).map(lambda seconds: seconds * 1_000_000_000),
    target=st.just(b""),
)


class Recorder:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.contents: list[bytes] = []
        self.finished = 0

    def start(self, member: Member) -> None:
        assert self.finished == len(self.members)
        self.members.append(member)
        self.contents.append(b"")

    def write(self, piece: memoryview) -> None:
        self.contents[-1] += bytes(piece)

    def finish(self) -> None:
        self.finished += 1


def read(archive: bytes, step: int = 1 << 20, *, marker: bool = True) -> Recorder:
    recorder = Recorder()
    reader = TarReader(recorder)
    for at in range(0, len(archive), step):
        reader.feed(archive[at : at + step])
    reader.close(marker=marker)
    assert recorder.finished == len(recorder.members)
    return recorder


def written(*members: Member, contents: dict[bytes, bytes] | None = None) -> bytes:
    data = b""
    for member in members:
        content = (contents or {}).get(member.name, b"")
        data += encode(member) + content + bytes(padding(len(content)))
    return data + END


def by_tarfile(*infos: tarfile.TarInfo, dialect: int = tarfile.PAX_FORMAT, **options) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=dialect, **options) as archive:
        for info in infos:
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return buffer.getvalue()


def info(name: str, **changes) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in changes.items():
        setattr(made, key, value)
    return made


@given(MEMBERS)
def test_what_is_encoded_is_read_again(member: Member):
    recorder = Recorder()
    TarReader(recorder).feed(encode(member))
    assert recorder.members == [member]


@given(MEMBERS.filter(lambda member: member.mtime >= 0))
def test_tarfile_reads_the_same(member: Member):
    with tarfile.open(fileobj=io.BytesIO(encode(member._replace(size=0)) + END)) as opened:
        read_back = opened.getmembers()[0]
    assert read_back.name.encode("utf-8", "surrogateescape") == member.name
    assert (read_back.mode, read_back.mtime) == (member.mode, member.mtime // 1_000_000_000)
    assert (read_back.uid, read_back.gid, read_back.uname) == (0, 0, "")


@given(st.integers(0, 1 << 62))
def test_sizes_as_tarfile_reads_them(size: int):
    header = encode(Member(b"big", FILE, 0o644, size, 0))
    assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").size == size
    assert decode(header, 0).size == size


@pytest.mark.parametrize("dialect", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("length", [1, 99, 100, 101, 155, 200, 250])
def test_names_in_every_dialect(dialect: int, length: int):
    name = ("ab/" * 100)[: length - 1] + "x"
    member = read(by_tarfile(info(name, size=3, mtime=77, mode=0o600), dialect=dialect)).members[0]
    assert member == Member(name.encode(), FILE, 0o600, 3, 77_000_000_000)


@pytest.mark.parametrize("dialect", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_unicode_and_long_links(dialect: int):
    made = info("日本/é" * 40, type=tarfile.SYMTYPE, linkname="ü" * 150)
    member = read(by_tarfile(made, dialect=dialect)).members[0]
    assert (member.name.decode(), member.target.decode(), member.kind) == (made.name, made.linkname, SYMLINK)


def test_pax_sizes_and_fractions_of_a_second():
    archive = by_tarfile(info("a", size=3, mtime=1.25, pax_headers={"size": "3", "comment": "x" * 10000}))
    assert read(archive).members == [Member(b"a", FILE, 0o644, 3, 1_250_000_000)]


def test_pax_headers_hold_for_one_member_and_global_ones_for_all():
    pax = info("a", pax_headers={"mtime": "5"})
    archive = by_tarfile(pax, info("b", mtime=9), pax_headers={"mtime": "7"})
    assert [member.mtime for member in read(archive).members] == [5_000_000_000, 7_000_000_000]


def test_kinds():
    archive = by_tarfile(
        info("d", type=tarfile.DIRTYPE),
        info("f", type=tarfile.AREGTYPE),
        info("old/", type=tarfile.AREGTYPE),
        info("c", type=tarfile.CONTTYPE),
        info("h", type=tarfile.LNKTYPE, linkname="f"),
    )
    kinds = {member.name.rstrip(b"/"): member.kind for member in read(archive).members}
    assert kinds == {b"d": DIRECTORY, b"f": FILE, b"old": DIRECTORY, b"c": FILE, b"h": HARDLINK}


@given(st.integers(1, 1100), st.lists(st.integers(0, 1500), max_size=4))
def test_pieces_of_any_size_read_the_same(step: int, sizes: list[int]):
    contents = {b"f%d" % number: bytes([number + 1]) * size for number, size in enumerate(sizes)}
    members = [Member(name, FILE, 0o644, len(data), 0) for name, data in contents.items()]
    members.append(Member(b"n" * 150, SYMLINK, 0o777, 0, 0, b"t" * 150))
    recorder = read(written(*members, contents=contents), step)
    assert recorder.members == members
    assert recorder.contents == [*contents.values(), b""]


def test_what_follows_the_end_is_ignored():
    archive = written(Member(b"a", FILE, 0o644, 0, 0))
    assert len(read(archive + b"anything" * 1000 + archive).members) == 1


@given(st.data())
def test_a_cut_archive_is_noticed(data: st.DataObject):
    contents = {b"a": b"x" * 700, b"n" * 120: b"y" * 512}
    archive = written(
        *(Member(name, FILE, 0o644, len(body), 0) for name, body in contents.items()), contents=contents
    )
    cut = data.draw(st.integers(1, len(archive) - len(END)))
    with pytest.raises(ArtifactInvalidError, match=f"truncated: the archive ends at byte {cut:,}"):
        read(archive[:cut])


@given(st.data())
def test_a_changed_header_is_noticed(data: st.DataObject):
    header = encode(Member(b"name", FILE, 0o644, 10, 20))
    at = data.draw(st.integers(0, 511).filter(lambda at: not 148 <= at < 156))
    changed = data.draw(st.integers(0, 255).filter(lambda byte: byte != header[at]))
    broken = header[:at] + bytes([changed]) + header[at + 1 :]
    with pytest.raises(ArtifactInvalidError, match="damaged at byte 512 of the archive"):
        read(encode(Member(b"first", FILE, 0o644, 0, 0)) + broken + END)


def test_checksums_of_signed_characters():
    header = bytearray(encode(Member("é".encode() * 20, FILE, 0o644, 0, 0)))
    header[148:156] = b" " * 8
    total = sum(byte - 256 if byte > 127 else byte for byte in header)
    header[148:156] = b"%06o\0 " % total
    assert decode(bytes(header), 0).name == "é".encode() * 20


@pytest.mark.parametrize("field", [b"12x45670", b"-1234567"[:8], b"99999999", b"\xff" * 8])
def test_absurd_sizes_are_refused(field: bytes):
    header = bytearray(encode(Member(b"a", FILE, 0o644, 0, 0)))
    header[124:136] = field.ljust(12, field[-1:])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(ArtifactInvalidError, match="damaged at byte 0 of the archive"):
        decode(bytes(header), 0)


@pytest.mark.parametrize(
    ("field", "number"),
    [
        (b"0000644\0", 0o644),
        (b"    644 ", 0o644),
        (b"\0" * 8, 0),
        (b"644\0junk", 0o644),
        (b"\x80\0\0\0\0\0\1\0", 256),
        (b"\xff" * 8, -1),
    ],
)
def test_numbers_in_every_spelling(field: bytes, number: int):
    assert parse_number(field) == number


BAD_PAX = [b"nonsense", b"5 a=b", b"99 path=x\n", b"0 path=x\n", b"9 path=xx\n", b"12 path=a\0bc\n", b"-9 path=x\n"]


@pytest.mark.parametrize("records", BAD_PAX)
def test_broken_pax_records_are_refused(records: bytes):
    with pytest.raises(ArtifactInvalidError, match="damaged"):
        pax_records(records)


@pytest.mark.parametrize("value", ["x", "-", "1.x", "1" * 30])
@pytest.mark.parametrize("key", ["size", "mtime"])
def test_pax_numbers_that_are_none(key: str, value: str):
    record = f" {key}={value}\n"
    data = f"{len(record) + len(str(len(record) + 2))}{record}".encode()
    archive = encode(Member(b"pax", b"x", 0, len(data), 0)) + data + bytes(padding(len(data)))
    with pytest.raises(ArtifactInvalidError, match="a number that is none"):
        read(archive + written(Member(b"a", FILE, 0, 0, 0)))


def test_an_endless_name_does_not_fill_the_memory():
    with pytest.raises(ArtifactInvalidError, match="extension header of 4,294,967,296 bytes"):
        read(encode(Member(b"././@LongLink", b"L", 0, 1 << 32, 0)))
