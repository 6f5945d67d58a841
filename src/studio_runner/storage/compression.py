"""Compressed streams of every kind that artifacts come in, in pieces of bounded size."""

import bz2
import lzma
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, cast

from studio_runner.errors import ArtifactInvalidError

if TYPE_CHECKING:
    from types import ModuleType

PIECE = 1 << 20
_INPUT = 1 << 17
"""Compressed bytes looked at in one go; a bomb must not make one step endless."""
_XZ_MEMORY = 1 << 29
_GZIP = 16 + zlib.MAX_WBITS


class Compression(StrEnum):
    """How an archive is compressed; the value is what `tar` adds to its name."""

    NONE = ""
    GZIP = "gz"
    BZIP2 = "bz2"
    XZ = "xz"
    ZSTD = "zst"

    @classmethod
    def of_name(cls, name: str) -> "Compression":
        """What an artifact of this key is written with; names of no known kind are plain tar."""
        lowered = name.lower()
        return next((kind for suffix, kind in _SUFFIXES.items() if lowered.endswith(suffix)), cls.NONE)

    @classmethod
    def of_content(cls, head: bytes) -> "Compression":
        """By magic bytes: clients write bzip2 into `.tgz` names."""
        if head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:  # a skippable frame, as pzstd writes first
            return cls.ZSTD
        return next((kind for magic, kind in _MAGICS.items() if head.startswith(magic)), cls.NONE)


_SUFFIXES = {
    ".tar.gz": Compression.GZIP,
    ".tgz": Compression.GZIP,
    ".tar.bz2": Compression.BZIP2,
    ".tbz2": Compression.BZIP2,
    ".tbz": Compression.BZIP2,
    ".tar.xz": Compression.XZ,
    ".txz": Compression.XZ,
    ".tar.zst": Compression.ZSTD,
    ".tzst": Compression.ZSTD,
}
_MAGICS = {
    b"\x1f\x8b": Compression.GZIP,
    b"BZh": Compression.BZIP2,
    b"\xfd7zXZ\0": Compression.XZ,
    b"\x28\xb5\x2f\xfd": Compression.ZSTD,
}


class _Decoder(Protocol):
    """One compressed member, the shape of `bz2.BZ2Decompressor`."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Encoder(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _GzipDecoder:
    """zlib's decoder in the shape of the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(_GZIP)
        self._full = False

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._full and not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        piece = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self._full = len(piece) == max_length
        return piece


def _zstd() -> "ModuleType":
    try:
        from compression import zstd  # type: ignore[import-not-found]  # noqa: PLC0415
    except ImportError:
        from backports import zstd  # noqa: PLC0415
    return cast("ModuleType", zstd)


def _zstd_options() -> dict[object, int]:
    """Without its checksum, which is off unless asked for, damage would pass unnoticed."""
    return {_zstd().CompressionParameter.checksum_flag: 1}


_DECODERS: dict[Compression, Callable[[], _Decoder]] = {
    Compression.GZIP: _GzipDecoder,
    Compression.BZIP2: bz2.BZ2Decompressor,
    Compression.XZ: lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY),
    Compression.ZSTD: lambda: cast("_Decoder", _zstd().ZstdDecompressor()),
}
_ENCODERS: dict[Compression, Callable[[], _Encoder]] = {
    Compression.GZIP: lambda: zlib.compressobj(wbits=_GZIP),
    Compression.BZIP2: bz2.BZ2Compressor,
    Compression.XZ: lzma.LZMACompressor,
    Compression.ZSTD: lambda: cast("_Encoder", _zstd().ZstdCompressor(options=_zstd_options())),
}


class Expander:
    """Decompresses a stream that is pushed in; several compressed members after another count as one stream."""

    def __init__(self, kind: Compression) -> None:
        self._kind = kind
        self._decoder: _Decoder | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` completes, in pieces of at most PIECE bytes; ArtifactInvalidError when it is damaged."""
        if self._kind is Compression.NONE:
            yield data
            return
        for at in range(0, len(data), _INPUT):
            rest = data[at : at + _INPUT]
            while rest:
                rest = yield from self._member(rest)

    def close(self) -> None:
        """The stream is over; ArtifactInvalidError when its last member is not."""
        if self._decoder is not None:
            raise ArtifactInvalidError(f"truncated: the {self._kind.name.lower()} data stop in the middle")

    def _member(self, data: bytes) -> Generator[bytes, None, bytes]:
        """Expand `data` up to the end of its member; returns what follows that."""
        if self._decoder is None:
            data = data.lstrip(b"\0")  # padding between members
            if not data:
                return b""
            self._decoder = _DECODERS[self._kind]()
        decoder = self._decoder
        while True:
            piece = self._expand(decoder, data)
            data = b""
            if piece:
                yield piece
            if decoder.eof:
                self._decoder = None
                return decoder.unused_data
            if decoder.needs_input:
                return b""

    def _expand(self, decoder: _Decoder, data: bytes) -> bytes:
        try:
            return decoder.decompress(data, PIECE)
        except _damage(self._kind) as error:
            raise ArtifactInvalidError(
                f"damaged: the {self._kind.name.lower()} data cannot be read: {error}"
            ) from error


def _damage(kind: Compression) -> tuple[type[Exception], ...]:
    """What its decoder raises on data that it cannot read."""
    usual = (OSError, EOFError, ValueError, MemoryError, lzma.LZMAError, zlib.error)
    return (*usual, _zstd().ZstdError) if kind is Compression.ZSTD else usual


def compress(stream: Iterable[bytes], kind: Compression) -> Generator[bytes, None, None]:
    """`stream` compressed, the same bytes for the same content."""
    if kind is Compression.NONE:
        yield from stream
        return
    encoder = _ENCODERS[kind]()
    for data in stream:
        if piece := encoder.compress(data):
            yield piece
    yield encoder.flush()
