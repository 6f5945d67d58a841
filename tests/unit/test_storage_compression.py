"""Compressed archives: told by their content, in several members, damaged, cut, and bombs."""

import bz2
import gzip
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studio_runner.errors import ArtifactInvalidError, DiskExceededError
from studio_runner.storage.archive import GivenUpError, Unpacker, pack_file
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.compression import PIECE, Compression, Expander, compress

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CODERS: dict[Compression, Callable[[bytes], bytes]] = {
    Compression.GZIP: gzip.compress,
    Compression.BZIP2: bz2.compress,
    Compression.XZ: lzma.compress,
    Compression.ZSTD: lambda data: zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}),
}
CONTENT = bytes(range(256)) * 40
ARCHIVE = pack_file("file", CONTENT)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def unpack(data: bytes, target: Path, budget: DiskBudget | None = None) -> None:
    with Unpacker(target, budget or DiskBudget(None)) as unpacker:
        unpacker.feed(data)
        unpacker.close()


def expanded(kind: Compression, data: bytes, step: int = 1 << 20) -> bytes:
    expander = Expander(kind)
    pieces = [piece for at in range(0, len(data), step) for piece in expander.feed(data[at : at + step])]
    expander.close()
    assert max(map(len, pieces), default=0) <= PIECE
    return b"".join(pieces)


@pytest.mark.parametrize("kind", CODERS)
def test_told_by_content(kind: Compression, target: Path):
    data = CODERS[kind](ARCHIVE)
    assert Compression.of_content(data) is kind
    unpack(data, target)
    assert (target / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("experiments/k/output.tar", Compression.NONE),
        ("a.tar.gz", Compression.GZIP),
        ("a.tgz", Compression.GZIP),
        ("A.TGZ", Compression.GZIP),
        ("a.tar.bz2", Compression.BZIP2),
        ("a.tbz2", Compression.BZIP2),
        ("a.tbz", Compression.BZIP2),
        ("a.tar.xz", Compression.XZ),
        ("a.tar.zst", Compression.ZSTD),
        ("a.gz/output", Compression.NONE),
        ("output", Compression.NONE),
    ],
)
def test_written_by_name(name: str, kind: Compression):
    assert Compression.of_name(name) is kind


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(
    kind=st.sampled_from(sorted(CODERS)),
    members=st.lists(st.binary(max_size=3000), min_size=1, max_size=4),
    padding=st.integers(0, 3).map(lambda words: words * 4),
    step=st.integers(1, 5000),
)
def test_several_members_are_one_stream(kind: Compression, members: list[bytes], padding: int, step: int):
    data = b"".join(CODERS[kind](member) + bytes(padding) for member in members)
    assert expanded(kind, data, step) == b"".join(members)


@pytest.mark.parametrize("kind", CODERS)
def test_an_archive_in_several_members(kind: Compression, target: Path):
    unpack(b"".join(CODERS[kind](ARCHIVE[at : at + 700]) for at in range(0, len(ARCHIVE), 700)), target)
    assert (target / "file").read_bytes() == CONTENT


def test_skippable_frames_of_zstd(target: Path):
    frame = b"\x50\x2a\x4d\x18\x04\0\0\0size"
    unpack(frame + zstd.compress(ARCHIVE) + frame, target)
    assert (target / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["BZh9", "\x1f\udc8b", "(\udcb5/\udcfd"])
def test_a_member_named_like_a_compressor(name: str, target: Path):
    unpack(pack_file(name, CONTENT), target)
    assert (target / name).read_bytes() == CONTENT


@pytest.mark.parametrize("kind", CODERS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.999])
def test_cut_short(kind: Compression, share: float, target: Path):
    data = CODERS[kind](ARCHIVE)
    with pytest.raises(ArtifactInvalidError, match=r"truncated|is no tar archive"):
        unpack(data[: max(1, min(int(len(data) * share), len(data) - 1))], target)


@pytest.mark.parametrize("kind", CODERS)
def test_damaged(kind: Compression, target: Path):
    data = bytearray(CODERS[kind](ARCHIVE))
    data[len(data) // 2] ^= 0xFF
    data[len(data) // 2 + 1] ^= 0xFF
    with pytest.raises(ArtifactInvalidError, match="damaged"):
        unpack(bytes(data), target)


def test_damage_after_the_end_of_the_archive_is_noticed(target: Path):
    # The checksum over everything that was unpacked is the last thing in the stream.
    data = bytearray(gzip.compress(ARCHIVE))
    data[-5] ^= 0xFF
    with pytest.raises(ArtifactInvalidError, match="damaged: the gzip data"):
        unpack(bytes(data), target)


@pytest.mark.parametrize("kind", CODERS)
def test_something_else_after_a_member(kind: Compression, target: Path):
    with pytest.raises(ArtifactInvalidError, match=r"damaged|truncated"):
        unpack(CODERS[kind](ARCHIVE) + b"#!/bin/sh and more", target)


@pytest.mark.parametrize("data", [b"PK\x03\x04" + bytes(600), b"#!/usr/bin/env python\n", b"x", b"\x89PNG" * 300])
def test_what_is_no_archive(data: bytes, target: Path):
    with pytest.raises(ArtifactInvalidError, match="is no tar archive") as caught:
        unpack(data, target)
    assert "unpack" in (caught.value.hint or "")


@pytest.mark.parametrize("kind", CODERS)
def test_a_compressed_file_that_is_no_archive(kind: Compression, target: Path):
    with pytest.raises(ArtifactInvalidError, match="no tar header"):
        unpack(CODERS[kind](b"only text, no archive\n" * 100), target)


def test_an_empty_object(target: Path):
    with pytest.raises(ArtifactInvalidError, match="is empty"):
        unpack(b"", target)


@pytest.mark.parametrize("kind", CODERS)
def test_a_bomb_ends_at_the_budget(kind: Compression, target: Path):
    bomb = CODERS[kind](pack_file("bomb", bytes(30_000_000)))
    assert len(bomb) < 100_000
    with pytest.raises(DiskExceededError):
        unpack(bomb, target, DiskBudget(1_000_000))
    assert sum(path.stat().st_size for path in target.iterdir()) <= 1_000_000


@pytest.mark.parametrize("kind", CODERS)
def test_a_bomb_does_not_fill_the_memory(kind: Compression):
    bomb = CODERS[kind](bytes(30_000_000))
    assert sum(len(piece) for piece in Expander(kind).feed(bomb)) == 30_000_000
    assert max(len(piece) for piece in Expander(kind).feed(bomb)) <= PIECE


def test_giving_up_ends_in_the_middle_of_a_bomb(target: Path):
    bomb = gzip.compress(pack_file("bomb", bytes(30_000_000)))
    with Unpacker(target, DiskBudget(None)) as unpacker:
        unpacker.feed(bomb[:2000])
        unpacker.give_up()
        with pytest.raises(GivenUpError):
            unpacker.feed(bomb[2000:])
    assert (target / "bomb").stat().st_size < 30_000_000


@pytest.mark.parametrize("kind", CODERS)
def test_compressing_the_same_gives_the_same(kind: Compression):
    pieces = [b"one", b"two" * 100_000, b""]
    first, second = (b"".join(compress(pieces, kind)) for _ in range(2))
    assert first == second
    assert expanded(kind, first) == b"".join(pieces)
