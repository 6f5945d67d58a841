"""Which artifact an error is about."""

from collections.abc import Iterator
from contextlib import contextmanager

from studio_runner.errors import (
    ArtifactInvalidError,
    DiskExceededError,
    StorageUnavailableError,
    UnauthorisedError,
)
from studio_runner.messages.artifact import Artifact


@contextmanager
def about(artifact: Artifact) -> Iterator[None]:
    """Errors of the body say which artifact they are about."""
    try:
        yield
    except (ArtifactInvalidError, DiskExceededError, StorageUnavailableError, UnauthorisedError) as error:
        message = f"artifact {artifact.label} ({artifact.address}): {error}"
        raise type(error)(message, hint=error.hint) from error
