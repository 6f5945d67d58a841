"""What keeps other users of the machine, and other programs of this one, away from what a command knows."""

import os
from typing import TYPE_CHECKING

from studio_runner.process.modes import PRIVATE

if TYPE_CHECKING:
    from studio_runner.cli.session import Session

_PR_SET_DUMPABLE = 4


def keep_files(session: "Session") -> None:
    """What this process makes is its user's alone; the session remembers what the user had chosen."""
    session.umask = os.umask(PRIVATE)


def keep_memory() -> None:
    """No core dump of this process and of those that it starts; and no other program may look into it, the
    experiments of the same user least of all: a runner's environment holds its credentials. (Root always may.)"""
    import ctypes
    import resource
    import sys

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
