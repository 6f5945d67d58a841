"""Which experiments run in a container."""

from studio_runner.messages.request import Request
from studio_runner.runner.images import IMAGE


def is_contained(request: Request) -> bool:
    """It brings an image (INTERFACE section 2)."""
    return IMAGE in request.artifacts
