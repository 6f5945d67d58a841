"""Become another user who can make no user namespace, and execute a program: as_confined.py UID HOME PROGRAM
[ARGUMENT...]

The limit is one of the user namespace that this makes first; the machine's own is left as it is.
"""

import ctypes
import os
import sys

CLONE_NEWUSER = 0x10000000
EVERYBODY = "0 0 65536"
LIBC = ctypes.CDLL(None, use_errno=True)


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def mapped(process, begun):
    """From outside, as only root there may."""
    os.read(begun, 1)
    for name in ("uid_map", "gid_map"):
        write(f"/proc/{process}/{name}", EVERYBODY)


uid, home, *command = sys.argv[1:]
process, (begun, begin) = os.getpid(), os.pipe()
helper = os.fork()
if not helper:
    mapped(process, begun)
    os._exit(0)
if LIBC.unshare(CLONE_NEWUSER):
    sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
os.write(begin, b"x")
if os.waitpid(helper, 0)[1]:
    sys.exit("the users could not be mapped")
write("/proc/sys/user/max_user_namespaces", "0")
os.setgroups([])
os.setgid(int(uid))
os.setuid(int(uid))
os.environ["HOME"] = home
os.execv(command[0], command)  # noqa: S606 - a program, and no shell
