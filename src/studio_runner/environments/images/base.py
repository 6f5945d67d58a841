"""What the images of containers have in common: where they come from, and what is there to run."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from studio_runner.environments.base import CacheUsage, Log

ImageKind = Literal["sif", "sandbox"]

SIF: ImageKind = "sif"
SANDBOX: ImageKind = "sandbox"


@dataclass(frozen=True)
class Image:
    """What runs: it stays whole and is not removed until the context that gave it ends."""

    path: Path
    """A SIF file or the directory of a sandbox. Experiments may only read it."""
    kind: ImageKind
    digest: str
    """Of the content and the same in every run: a key for what is made from the image."""
    name: str
    """For people: the reference or the address, without credentials."""


class ImageSource(Protocol):
    """Where an image comes from."""

    @property
    def name(self) -> str:
        """For people, without credentials."""
        ...

    @property
    def identity(self) -> str:
        """Tells one image from another and, where that is known beforehand, one version from the next."""
        ...


class Images(Protocol):
    """Has images, or gets them."""

    def obtain(self, source: ImageSource, log: Log) -> AbstractAsyncContextManager[Image]:
        """The image, on this machine.

        ArtifactMissingError: it is not there. ArtifactInvalidError: it is damaged, no image, or one for another
        machine. UnauthorisedError: a registry or store wants other credentials. EnvironmentUnavailableError: no
        answer, no time or no room. EnvironmentFailedError: there is no such reference, or no runtime to pull it.
        """
        ...

    async def usage(self) -> CacheUsage: ...
