"""What the operator of this runner allows of containers, and which of it can be had here."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from studio_runner.config.settings import ContainerSettings
from studio_runner.environments.images.pull import FindProgram
from studio_runner.environments.images.reference import Reference, is_reference
from studio_runner.errors import EnvironmentFailedError
from studio_runner.messages.artifact import Artifact, Location
from studio_runner.messages.request import Request
from studio_runner.runner.images import IMAGE

_REFUSED = "it brings a container image, and this runner runs none (--containers refused)"
_REQUIRED = "it brings no container image, and this runner runs nothing without one (--require-container)"
_DOTS = re.compile(r"(^|/)\.\.?(/|$)")


@dataclass(frozen=True)
class Policy:
    """Says of requests why this runner leaves them to others. `find` looks for the container runtime, which may be
    installed while the runner runs; EnvironmentFailedError says why no container starts here."""

    settings: ContainerSettings
    find: FindProgram

    def __call__(self, request: Request) -> list[str]:
        if IMAGE not in request.artifacts:
            return objections(request, self.settings, "")
        return objections(request, self.settings, self._obstacle())

    def _obstacle(self) -> str:
        try:
            self.find()
        except EnvironmentFailedError as error:
            return str(error)
        return ""


def objections(request: Request, settings: ContainerSettings, obstacle: str) -> list[str]:
    """Why this runner will not run the experiment, each the end of a sentence about it. `obstacle` is a sentence
    that says why containers do not start here, "" where they do.

    Other runners may think otherwise: such a message is left to them, as one that does not fit.
    """
    image = request.artifacts.get(IMAGE)
    if image is None:
        return [_REQUIRED] if settings.require else []
    if settings.use == "refused":
        return [_REFUSED]
    found = [f"it brings a container image, and {obstacle[0].lower()}{obstacle[1:]}"] if obstacle else []
    if settings.sources and not allowed(image, settings.sources):
        found.append(
            f"its image {image.address} comes from a place that this runner does not allow (--container-sources)"
        )
    return found


def allowed(image: Artifact, patterns: Sequence[str]) -> bool:
    """Whether the image's address fits one of the patterns. `*` stands for any part of one name between slashes, at
    the end of a pattern for everything that follows."""
    address = _address(image.location)
    if address is None or _DOTS.search(unquote(address.partition("://")[2]).replace("\\", "/")):
        return False
    return any(_expression(pattern).fullmatch(address) for pattern in patterns)


def _address(location: Location) -> str | None:
    """In the one spelling that patterns are compared with; without what opens it. None: it means nothing."""
    if is_reference(location.scheme):
        try:
            return Reference.parse(location.scheme, location.key).address
        except EnvironmentFailedError:
            return None
    if location.scheme == "file":
        return f"file://{location.key}"
    parts = (location.endpoint.lower(), location.bucket, location.key)
    return f"{location.scheme}://{'/'.join(part for part in parts if part)}"


def _expression(pattern: str) -> re.Pattern[str]:
    scheme, separator, rest = pattern.partition("://")
    pattern = f"{'docker' if scheme.lower() == 'dockerhub' else scheme.lower()}{separator}{rest}"
    pieces = [re.escape(piece) for piece in pattern.split("*")]
    if pattern.endswith("*"):
        return re.compile("[^/]*".join(pieces[:-1]) + ".*", re.DOTALL)
    return re.compile("[^/]*".join(pieces))
