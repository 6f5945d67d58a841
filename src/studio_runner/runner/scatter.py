"""Telling the file system that the directories in a directory have nothing to do with each other.

ext2 to ext4 then put each into a part of the disk of its own. Directories of experiments come and go by the dozen a
second; all in one part, every new one searches past the remains of those before it, and a trivial experiment costs
half as much again.
"""

import fcntl
import os
import struct
import sys
from contextlib import suppress
from pathlib import Path

_GET_FLAGS, _SET_FLAGS, _TOP_OF_HIERARCHY = 0x80086601, 0x40086602, 0x00020000
"""FS_IOC_GETFLAGS, FS_IOC_SETFLAGS and FS_TOPDIR_FL of linux/fs.h, for machines of 64 bits."""


def scatter(directory: Path) -> None:
    """Give the hint; file systems that do not know it refuse, and that is all right."""
    if sys.platform != "linux" or sys.maxsize < 1 << 32:
        return
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            (flags,) = struct.unpack("l", fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8)))
            fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("l", flags | _TOP_OF_HIERARCHY))
        finally:
            os.close(descriptor)
