"""Become another user who may use FUSE, whoever may on this machine, and execute a program: as_mounter.py UID HOME
PROGRAM [ARGUMENT...]

In a mount namespace of its own a fresh node stands before the machine's /dev/fuse, which is left as it is.
"""

import ctypes
import os
import stat
import sys
import tempfile

CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000
FUSE = os.makedev(10, 229)
LIBC = ctypes.CDLL(None, use_errno=True)


def require(result, what):
    if result:
        sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(source, target, flags):
    require(LIBC.mount(source.encode(), target.encode(), None, flags, None), f"mount {target}")


uid, home, *command = sys.argv[1:]
require(LIBC.unshare(CLONE_NEWNS), "unshare")
mount("none", "/", MS_REC | MS_PRIVATE)
with tempfile.TemporaryDirectory() as directory:
    node = os.path.join(directory, "fuse")
    os.mknod(node, stat.S_IFCHR, FUSE)
    os.chmod(node, 0o666)
    mount(node, "/dev/fuse", MS_BIND)
os.setgroups([])
os.setgid(int(uid))
os.setuid(int(uid))
os.environ["HOME"] = home
os.execv(command[0], command)  # noqa: S606 - a program, and no shell
