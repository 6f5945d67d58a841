"""The artifact `retval` of completion services, which want its one file where other clients have a directory.

Such an archive they know by the name of its only member: without `./` up to release 0.0.37 of the client, with it
since. All of them pass over a file that is older than the end of their own submitting, for ever.
"""

import re
import time

from studio_runner.messages.request import Request
from studio_runner.storage.alone import Alone

LABEL = "retval"
SUBMITTING = 15.0
"""Seconds that existing clients may still be busy submitting when their message is here already."""

_CLIENT = re.compile(r"studioml(?:-cs)?==0\.0\.(\d{1,6})")
_FIRST_WITH_DOT = 38
_SINCE_THEN = "from_compl_service"
"""A field of messages since 0.0.43."""


def alone(request: Request, label: str) -> Alone | None:
    """How the archive of the artifact announces a file that is all it holds; None: as any other."""
    if label != LABEL:
        return None
    return Alone(b"./" if _with_dot(request) else b"", time.time() + SUBMITTING)


def _with_dot(request: Request) -> bool:
    releases = [int(found[1]) for line in request.experiment.pythonenv if (found := _CLIENT.match(line))]
    return _SINCE_THEN in request.experiment_document or any(release >= _FIRST_WITH_DOT for release in releases)
