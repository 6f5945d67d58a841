"""The container image of an experiment: which artifact it is, and where that comes from."""

import asyncio
from pathlib import Path

from studio_runner.environments.images.base import ImageSource
from studio_runner.environments.images.logins import Login
from studio_runner.environments.images.pull import too_large
from studio_runner.environments.images.reference import Reference, is_reference
from studio_runner.environments.images.sources import RegistryImage, StoredImage
from studio_runner.errors import (
    ArtifactInvalidError,
    ArtifactMissingError,
    DiskExceededError,
    ObjectNotFoundError,
    StorageUnavailableError,
    UnauthorisedError,
)
from studio_runner.messages.artifact import Artifact
from studio_runner.messages.request import Request
from studio_runner.storage.access import access_to
from studio_runner.storage.budget import DiskBudget
from studio_runner.storage.fetch import fetch
from studio_runner.storage.image import ImageReceiver
from studio_runner.storage.registry import Stores

IMAGE = "_singularity"
"""The label of the artifact that is the image."""

_TOKEN_USER = "oauth2accesstoken"  # noqa: S105 - what registries call whoever comes with a token


async def image_source(request: Request, stores: Stores, limit: int) -> ImageSource | None:
    """Where the experiment's image comes from; None when it brings none. `limit` (bytes, 0: none) is for one that
    is in a store.

    A store is asked at once, with the experiment's own credentials: whether it is there, and in which version.
    ArtifactMissingError, ArtifactInvalidError, UnauthorisedError, StorageUnavailableError, EnvironmentFailedError.
    """
    artifact = request.artifacts.get(IMAGE)
    if artifact is None:
        return None
    if is_reference(artifact.location.scheme):
        return registry_image(artifact)
    return await _stored(request, artifact, stores, limit)


def registry_image(artifact: Artifact) -> RegistryImage:
    """Of an artifact whose address is a reference. EnvironmentFailedError when that names no image."""
    location = artifact.location
    return RegistryImage(Reference.parse(location.scheme, location.key), _login(artifact))


async def _stored(request: Request, artifact: Artifact, stores: Stores, limit: int) -> StoredImage:
    if artifact.location.scheme == "file" and await asyncio.to_thread(Path(artifact.location.key).is_dir):
        raise ArtifactInvalidError(
            f"the image of the experiment, {artifact.address}, is a directory",
            hint="pack the sandbox with tar, or make a SIF file of it: apptainer build IMAGE.sif DIRECTORY",
        )
    store, key = stores.open(artifact.location, access_to(request, artifact))
    try:
        info = await store.head(key)
    except ObjectNotFoundError as error:
        raise ArtifactMissingError(
            f"the image of the experiment is not at {artifact.address}", hint=f"upload the artifact {IMAGE}"
        ) from error
    except (UnauthorisedError, StorageUnavailableError) as error:
        raise type(error)(f"artifact {IMAGE} ({artifact.address}): {error}", hint=error.hint) from error

    async def bring(directory: Path) -> str:
        receivers: list[ImageReceiver] = []

        def receive(place: Path, budget: DiskBudget) -> ImageReceiver:
            receivers.append(ImageReceiver(place, budget))
            return receivers[-1]

        fixed = artifact.model_copy(update={"mutable": False})
        try:
            await fetch(fixed, store, key, directory, DiskBudget(limit or None), receive=receive)
        except DiskExceededError as error:
            raise too_large(artifact.address, limit) from error
        return receivers[-1].sha256

    version = (info.etag, str(info.size), str(info.modified), artifact.hash or "")
    return StoredImage(artifact.address, "\0".join((artifact.address, *version)), bring)


def _login(artifact: Artifact) -> Login | None:
    """The artifact's own; a token is shown as registries want it, in place of a password."""
    credentials = artifact.credentials
    if credentials is None:
        return None
    if credentials.plain is not None:
        return Login(credentials.plain.user, credentials.plain.password)
    if credentials.jwt is not None and credentials.jwt.token:
        return Login(_TOKEN_USER, credentials.jwt.token)
    return None
