"""Tar headers, read and written: ustar, GNU and pax read, GNU written.

Sources: POSIX.1-2017 `pax`, the GNU tar manual's "Basic Tar Format". GNU is what is written because its long names
are raw bytes (pax wants UTF-8) and every reader in use knows it.
"""

from typing import NamedTuple
from zlib import adler32

from studio_runner.errors import ArtifactInvalidError

BLOCK = 512
ZEROS = bytes(BLOCK)
END = bytes(2 * BLOCK)

FILE, HARDLINK, SYMLINK, DIRECTORY = b"0", b"1", b"2", b"5"
PAX, PAX_GLOBAL, LONG_NAME, LONG_TARGET, LABEL = b"x", b"g", b"L", b"K", b"V"

_PLAIN_FILES = {b"0", b"\0", b"7"}
_WITHOUT_DATA = {HARDLINK, SYMLINK, DIRECTORY, b"3", b"4", b"6"}
_MAGIC = b"ustar  \0"
_TAIL = _MAGIC + bytes(BLOCK - 257 - len(_MAGIC))
_TAIL_SUM = sum(_TAIL) + 8 * ord(" ")  # the checksum counts its own field as blanks
_OWNER = b"0000000\0" * 2  # uid and gid
_SECOND = 1_000_000_000
_SPARSE = b"GNU.sparse."
_RECORDS = {b"path", b"linkpath", b"size", b"mtime"}


class Member(NamedTuple):
    """One entry of an archive; names are bytes as they stand there, `mtime` is in nanoseconds."""

    name: bytes
    kind: bytes
    mode: int
    size: int
    mtime: int
    target: bytes = b""


def padding(size: int) -> int:
    """Bytes that follow `size` bytes of data up to the next block."""
    return -size % BLOCK


def encode(member: Member) -> bytes:
    """The blocks that announce `member`; its data comes after them."""
    extra = b""
    if len(member.target) > 100:
        extra += _long(LONG_TARGET, member.target)
    if len(member.name) > 100:
        extra += _long(LONG_NAME, member.name)
    return extra + _header(member) if extra else _header(member)


def _header(member: Member) -> bytes:
    front = b"%s%07o\0%s%s%s" % (
        member.name[:100].ljust(100, b"\0"),
        member.mode,
        _OWNER,
        _number(member.size),
        _number(member.mtime // _SECOND),
    )
    back = member.kind + member.target[:100].ljust(100, b"\0")
    # Adler-32's low half is 1 + the sum of the bytes, exact for fewer than 257 of them, and far faster than sum().
    checksum = (adler32(front) & 0xFFFF) + (adler32(back) & 0xFFFF) - 2 + _TAIL_SUM
    return b"%s%06o\0 %s%s" % (front, checksum, back, _TAIL)


def _long(kind: bytes, name: bytes) -> bytes:
    data = name + b"\0"
    return _header(Member(b"././@LongLink", kind, 0o644, len(data), 0)) + data + bytes(padding(len(data)))


def _number(value: int) -> bytes:
    """Twelve bytes: octal where it fits, else base 256."""
    if 0 <= value < 1 << 33:
        return b"%011o\0" % value
    if value < 0:
        return value.to_bytes(12, "big", signed=True)
    return (value | 1 << 95).to_bytes(12, "big")


def looks_like_header(block: bytes) -> bool:
    """Whether these first 512 bytes of something can be a tar archive's."""
    return block == ZEROS or (len(block) == BLOCK and _checksum_holds(block))


def decode(block: bytes, offset: int) -> Member:
    """What `block`, found at `offset` of the archive, announces, before extension headers have their say."""
    if not _checksum_holds(block):
        raise ArtifactInvalidError(f"damaged at byte {offset:,} of the archive: no tar header where one must be")
    try:
        mode, size, mtime = parse_number(block[100:108]), parse_number(block[124:136]), parse_number(block[136:148])
    except ValueError as error:
        raise ArtifactInvalidError(f"damaged at byte {offset:,} of the archive: a number is none") from error
    name, kind = _text(block[:100]), block[156:157]
    if block[345] and block[257:263] == b"ustar\0":
        name = _text(block[345:500]) + b"/" + name
    if kind in _PLAIN_FILES:
        kind = FILE
    if kind in _WITHOUT_DATA:
        size = 0
    if size < 0:
        raise ArtifactInvalidError(f"damaged at byte {offset:,} of the archive: a size below zero")
    return Member(name, kind, mode, size, mtime * _SECOND, _text(block[157:257]))


def _checksum_holds(block: bytes) -> bool:
    try:
        stored = parse_number(block[148:156])
    except ValueError:
        return False
    counted = block[:148] + b"        " + block[156:]
    unsigned = (adler32(counted[:256]) & 0xFFFF) + (adler32(counted[256:]) & 0xFFFF) - 2
    # Some old writers summed signed characters.
    return stored == unsigned or stored == unsigned - 256 * sum(byte > 127 for byte in counted)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def parse_number(field: bytes) -> int:
    """A header's number: octal text, or base 256 when the first bit is set. ValueError when it is neither."""
    if field[0] & 0x80:
        if field[0] & 0x40:
            return int.from_bytes(field, "big", signed=True)
        return int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
    text = field.partition(b"\0")[0].strip()
    return int(text, 8) if text else 0


def amend(member: Member, records: dict[bytes, bytes]) -> Member:
    """`member` with what pax records say of it."""
    changes: dict[str, bytes | int] = {}
    if b"path" in records:
        changes["name"] = records[b"path"]
    if b"linkpath" in records:
        changes["target"] = records[b"linkpath"]
    try:
        if b"size" in records and member.kind not in _WITHOUT_DATA:
            changes["size"] = _natural(records[b"size"])
        if b"mtime" in records:
            changes["mtime"] = _nanoseconds(records[b"mtime"])
    except ValueError as error:
        raise ArtifactInvalidError("damaged: a pax header holds a number that is none") from error
    return member._replace(**changes)  # type: ignore[arg-type]


def _natural(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise ValueError(text)
    return int(text)


def _nanoseconds(text: bytes) -> int:
    whole, _, fraction = text.partition(b".")
    negative = whole.startswith(b"-")
    part = _natural((fraction[:9] or b"0").ljust(9, b"0"))
    seconds = _natural(whole.lstrip(b"-"))
    return (-1 if negative else 1) * (seconds * _SECOND + part)


def pax_records(data: bytes) -> dict[bytes, bytes]:
    """The `length key=value` records of a pax header that matter here (an archive must not fill our memory)."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(data) and data[at]:
        blank = data.find(b" ", at, at + 20)
        length = data[at:blank]
        if blank < 0 or not length.isdigit():
            raise ArtifactInvalidError("damaged: a pax header cannot be read")
        stop = at + int(length)
        if not blank < stop <= len(data) or data[stop - 1 : stop] != b"\n":
            raise ArtifactInvalidError("damaged: a pax header cannot be read")
        key, _, value = data[blank + 1 : stop - 1].partition(b"=")
        if key.startswith(_SPARSE):
            raise ArtifactInvalidError("holds sparse members (tar --sparse), which are not read here")
        if b"\0" in value and key in _RECORDS:
            raise ArtifactInvalidError("damaged: a name with a NUL in it")
        if key in _RECORDS and value:
            records[key] = value
        at = stop
    return records
