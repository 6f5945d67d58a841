"""Become another user and execute a program: as_account.py UID HOME PROGRAM [ARGUMENT...]"""

import os
import sys

uid, home, *command = sys.argv[1:]
os.setgroups([])
os.setgid(int(uid))
os.setuid(int(uid))
os.environ["HOME"] = home
os.execv(command[0], command)  # noqa: S606 - a program, and no shell
