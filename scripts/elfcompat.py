"""Let ELF files that were linked against a newer glibc run on this machine's, where that takes no more than a name.

Headers since glibc 2.38 turn `strtol` into `__isoc23_strtol`. Each such symbol that is not defined is pointed at
its older namesake, which is the tail of the same string, and the versions that this glibc lacks become its base
version. In place, of the same size. Anything else that is too new is an error. 64-bit little-endian files only.
"""

import os
import struct
import sys
from pathlib import Path
from typing import NamedTuple

HERE = tuple(int(part) for part in (os.confstr("CS_GNU_LIBC_VERSION") or "glibc 0.0").split()[1].split("."))
DYNSYM, VERNEED, VERSYM = 11, 0x6FFFFFFE, 0x6FFFFFFF
PREFIX = "__isoc23_"


class Section(NamedTuple):
    kind: int
    offset: int
    size: int
    link: int
    info: int


class Need(NamedTuple):
    """A version that the file needs of a library: where that stands, and how it is named and numbered."""

    offset: int
    name: str
    hash: int
    number: int

    @property
    def version(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.name.removeprefix("GLIBC_").split("."))


class Elf:
    def __init__(self, content: bytearray) -> None:
        self.content = content
        (table,) = struct.unpack_from("<Q", content, 0x28)
        size, number = struct.unpack_from("<HH", content, 0x3A)
        self._sections = [self._section(table + index * size) for index in range(number)]
        self._by_kind = {section.kind: section for section in self._sections}

    def _section(self, offset: int) -> Section:
        _, kind, _, _, start, size, link, info, _, _ = struct.unpack_from("<IIQQQQIIQQ", self.content, offset)
        return Section(kind, start, size, link, info)

    @property
    def dynamic(self) -> bool:
        return DYNSYM in self._by_kind and VERNEED in self._by_kind

    def string(self, offset: int) -> str:
        start = self._sections[self._by_kind[DYNSYM].link].offset + offset
        return self.content[start : self.content.index(0, start)].decode()

    def needs(self) -> list[Need]:
        """Of glibc."""
        found, place = [], self._by_kind[VERNEED].offset
        for _ in range(self._by_kind[VERNEED].info):
            _, number, _, first, following = struct.unpack_from("<HHIII", self.content, place)
            entry = place + first
            for _ in range(number):
                hashed, _, other, name, distance = struct.unpack_from("<IHHII", self.content, entry)
                if self.string(name).startswith("GLIBC_"):
                    found.append(Need(entry, self.string(name), hashed, other))
                entry += distance
            place += following
        return found

    def point_at_namesakes(self, numbers: set[int], base: Need) -> None:
        """What is needed in one of these versions becomes the older function of the base version."""
        symbols, versions = self._by_kind[DYNSYM], self._by_kind[VERSYM]
        for index in range(symbols.size // 24):
            entry, version = symbols.offset + index * 24, versions.offset + 2 * index
            name, _, _, section = struct.unpack_from("<IBBH", self.content, entry)
            (number,) = struct.unpack_from("<H", self.content, version)
            if section or number & 0x7FFF not in numbers:
                continue
            if not self.string(name).startswith(PREFIX):
                sys.exit(f"{self.string(name)} has no older namesake")
            struct.pack_into("<I", self.content, entry, name + len(PREFIX))
            struct.pack_into("<H", self.content, version, base.number)

    def rename(self, need: Need, base: Need) -> None:
        (name,) = struct.unpack_from("<I", self.content, base.offset + 8)
        struct.pack_into("<I", self.content, need.offset, base.hash)
        struct.pack_into("<I", self.content, need.offset + 8, name)


def mend(path: Path) -> bool:
    """Whether there was anything to mend."""
    content = bytearray(path.read_bytes())
    if content[:6] != b"\x7fELF\x02\x01" or not (elf := Elf(content)).dynamic:
        return False
    needs = elf.needs()
    numbered = [need for need in needs if need.name[6:7].isdigit()]
    new = [need for need in needs if need not in numbered or need.version > HERE]
    if not new:
        return False
    base = min((need for need in numbered if need not in new), key=lambda need: need.version)
    elf.point_at_namesakes({need.number for need in new}, base)
    for need in new:
        elf.rename(need, base)
    beside = path.with_name(f"{path.name}.new")
    beside.write_bytes(content)
    beside.chmod(path.stat().st_mode & 0o7777)
    beside.replace(path)
    return True


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print("edited" if mend(Path(argument)) else "left  ", argument)
