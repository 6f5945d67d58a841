"""Which experiments run in a container."""

from studio_runner.messages.request import Request

IMAGE = "_singularity"
"""The artifact that is the image: a file, a sandbox, or a reference to a registry (INTERFACE section 2)."""


def is_contained(request: Request) -> bool:
    return IMAGE in request.artifacts
