"""A disk that is full, for one process."""

import resource
from contextlib import contextmanager


@contextmanager
def files_up_to(size: int):
    """The kernel refuses to let a file of this process grow beyond `size`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
