"""What a process tree may use: kernel limits that it starts with."""

import resource
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Kernel limits of every process of a tree; 0 leaves the runner's own. Core dumps are always off.

    A limit on the number of processes is left out on purpose: the kernel counts them per user, so one experiment
    would be refused a fork because of its neighbours.
    """

    open_files: int = 0
    file_size: int = 0

    def kernel(self) -> list[tuple[int, int, int]]:
        """As (resource, soft, hard), never above what this process has itself."""
        wanted = ((resource.RLIMIT_NOFILE, self.open_files), (resource.RLIMIT_FSIZE, self.file_size))
        return [(resource.RLIMIT_CORE, 0, 0), *(_bounded(kind, value) for kind, value in wanted if value)]


def _bounded(kind: int, value: int) -> tuple[int, int, int]:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    return kind, value, value
