"""What keeps other users of the machine, and other programs of this one, away from what a command knows."""

import os
import sys
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from studio_runner.process.modes import PRIVATE

if TYPE_CHECKING:
    from studio_runner.cli.session import Session

_PR_SET_DUMPABLE = 4


def keep_words() -> None:
    """What is secret in the command line of this process is not in it any more, for whoever lists processes from
    now on. Nothing else changes, what the process itself knows of its arguments least of all."""
    from studio_runner.messages.secrets import shown_words

    words = sys.orig_argv
    if (shown := shown_words(words)) != words:
        _overwrite(b"".join(_ended(words)), b"".join(_ended([*map(_covered, words, shown)])))


def _covered(word: str, shown: str) -> str:
    """The word, with as many `*` as there are bytes from where it is shown as another one."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(word, shown, strict=False)))
    return word[:same] + "*" * len(os.fsencode(word[same:]))


def _ended(words: Sequence[str]) -> Iterator[bytes]:
    return (os.fsencode(word) + b"\0" for word in words)


def _overwrite(now: bytes, then: bytes) -> None:
    """In the memory that the kernel shows as the command line: the words follow each other there, the first one is
    what the C library calls this program. Where they are not what they should be, nothing is touched."""
    import ctypes

    try:
        first = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "program_invocation_name").value
    except ValueError:  # a C library that has no such name
        return
    if first and ctypes.string_at(first) == now.partition(b"\0")[0] and ctypes.string_at(first, len(now)) == now:
        ctypes.memmove(first, then, len(then))


def keep_files(session: "Session") -> None:
    """What this process makes is its user's alone; the session remembers what the user had chosen."""
    session.umask = os.umask(PRIVATE)


def keep_memory() -> None:
    """No core dump of this process and of those that it starts; and no other program may look into it, the
    experiments of the same user least of all: a runner's environment holds its credentials. (Root always may.)"""
    import ctypes
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
