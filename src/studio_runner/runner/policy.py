"""What the operator of this runner allows of containers."""

import re
from collections.abc import Sequence

from studio_runner.config.settings import ContainerSettings
from studio_runner.environments.images.reference import Reference, is_reference
from studio_runner.errors import EnvironmentFailedError
from studio_runner.messages.artifact import Artifact, Location
from studio_runner.messages.request import Request
from studio_runner.runner.images import IMAGE

_REFUSED = "it brings a container image, and this runner runs none (--containers refused)"
_REQUIRED = "it brings no container image, and this runner runs nothing without one (--require-container)"
_DOTS = re.compile(r"(^|/)(\.|%2e)(\.|%2e)?(/|$)", re.IGNORECASE)


def refusal(request: Request, settings: ContainerSettings) -> str | None:
    """Why this runner will not run the experiment, as the end of a sentence about it; None: it will.

    Other runners may think otherwise: such a message is left to them.
    """
    image = request.artifacts.get(IMAGE)
    if image is None:
        return _REQUIRED if settings.require else None
    if settings.use == "refused":
        return _REFUSED
    if settings.sources and not allowed(image, settings.sources):
        return f"its image {image.address} comes from a place that this runner does not allow (--container-sources)"
    return None


def allowed(image: Artifact, patterns: Sequence[str]) -> bool:
    """Whether the image's address fits one of the patterns. `*` stands for any part of one name between slashes, at
    the end of a pattern for everything that follows."""
    address = _address(image.location)
    if address is None or _DOTS.search(address.partition("://")[2]):
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
