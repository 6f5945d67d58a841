"""Gets an image that is not there, or looks whether the one that is there is still meant."""

import asyncio
import hashlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from studio_runner.config.settings import ContainerSettings
from studio_runner.environments.base import Log
from studio_runner.environments.images.architecture import this_machine
from studio_runner.environments.images.base import SANDBOX, SIF, ImageKind, ImageSource
from studio_runner.environments.images.cache import ImageCache, Manifest, Record, Slot, place
from studio_runner.environments.images.logins import Login, login_in
from studio_runner.environments.images.look import Found, look
from studio_runner.environments.images.pull import Order, Puller, Words, too_large
from studio_runner.environments.images.reference import REGISTRIES, Reference
from studio_runner.environments.images.registry import Inquiry, version_in_time
from studio_runner.environments.images.sources import RegistryImage, StoredImage
from studio_runner.environments.images.trouble import NoRoomError
from studio_runner.environments.uninterrupted import uninterrupted
from studio_runner.errors import ArtifactInvalidError, EnvironmentFailedError, EnvironmentUnavailableError
from studio_runner.messages.units import format_duration

PAUSES = (1.0, 4.0)
"""Seconds before the second and the third try when the network is in the way."""


@dataclass(frozen=True)
class Got:
    """An image in use, and the registry's word for its version ("": it has none)."""

    slot: Slot
    version: str


@dataclass(frozen=True)
class Errand:
    """One image to get: for whom its name is, and who hears of it."""

    name: str
    work: Path
    log: Log


@dataclass(frozen=True)
class _Wanted:
    """What is pulled, and the digest it is kept by; None: that of the file that comes."""

    reference: Reference
    login: Login | None
    digest: str | None


class Getter:
    """Brings and pulls images into the cache."""

    def __init__(self, cache: ImageCache, settings: ContainerSettings, puller: Puller) -> None:
        self._cache = cache
        self._settings = settings
        self.puller = puller
        self._mounts: bool | None = {"auto": None, "always": False, "never": True}[settings.unpack]
        self.pauses = PAUSES

    async def get(self, source: ImageSource, record: Record | None, log: Log) -> Got:
        """The image of `source`, of which `record` is known. Errors are those of `Images.obtain`, and OSError."""
        limit = self._settings.pull_timeout
        try:
            async with asyncio.timeout(limit or None):
                match source:
                    case StoredImage():
                        return Got(await self._bring(source, log), "")
                    case RegistryImage():
                        return await self._ask_again(source, record, log)
                    case _:
                        raise EnvironmentFailedError(f"images of the kind {type(source).__name__} cannot be had")
        except TimeoutError as error:
            raise EnvironmentUnavailableError(
                f"The image {source.name} was not here after {format_duration(limit)}",
                hint="--pull-timeout of the runner says how long it may take",
            ) from error

    async def _ask_again(self, source: RegistryImage, record: Record | None, log: Log) -> Got:
        """Once when there is an older copy to go on with, else as long as it makes sense."""
        for pause in () if record else self.pauses:
            try:
                return await self._registered(source, record, log)
            except NoRoomError:
                raise
            except EnvironmentUnavailableError as error:
                log(f"{error}; trying again in {pause:g} s")
            await asyncio.sleep(pause)
        return await self._registered(source, record, log)

    async def _registered(self, source: RegistryImage, record: Record | None, log: Log) -> Got:
        reference = source.reference
        login = await asyncio.to_thread(login_for, source, self._settings)
        if reference.scheme not in REGISTRIES:
            return Got(await self._pull(_Wanted(reference, login, None), reference.address, log), "")
        question = Inquiry(reference, login, scheme_of(reference, self._settings))
        version = await version_in_time(question)
        if record and record.version == version and (slot := await self._find(record.digest)):
            return Got(slot, version)
        # By the digest and not by the tag: what comes is then what the registry said that it is.
        pinned = reference.pin(version)
        digest = _digest_of(f"{pinned.address} {this_machine()}")
        say = partial(log, f"the image {reference.address} is being pulled under another name; waiting for it")
        async with self._cache.claim(digest, say):
            slot = await self._find(digest) or await self._pull(
                _Wanted(pinned, login, digest), reference.address, log
            )
        return Got(slot, version)

    async def _bring(self, source: StoredImage, log: Log) -> Slot:
        log(f"fetching the image {source.name}")
        async with self._cache.workplace() as work:
            came = work / "came"
            came.mkdir()
            async with self.puller.watched(work, Words(source.name, log)):
                digest = await source.bring(came)
            if slot := await self._find(digest):
                return slot
            errand = Errand(source.name, work, log)
            return await self._publish(await _looked(came, errand), digest, errand)

    async def _pull(self, wanted: _Wanted, name: str, log: Log) -> Slot:
        log(f"pulling the image {name}")
        kind: ImageKind = SANDBOX if self._mounts is False and wanted.digest else SIF
        reference, digest = wanted.reference, wanted.digest
        async with self._cache.workplace() as work:
            target = work / place(kind)
            order = Order(name, reference, wanted.login, scheme_of(reference, self._settings), work, target, kind)
            await self.puller.pull(order, log)
            errand = Errand(name, work, log)
            found = await _looked(target, errand)
            if digest is None:
                digest = await asyncio.to_thread(_sha256, target)
            return await self._publish(found, digest, errand)

    async def _publish(self, found: Found, digest: str, errand: Errand) -> Slot:
        made = errand.work / "made"
        made.mkdir()
        kind = await self._make(found, made, errand)
        manifest = await uninterrupted(asyncio.to_thread(Manifest.of, made, kind))
        if self._cache.budget and manifest.size > self._cache.budget:
            raise too_large(errand.name, self._cache.budget)
        await uninterrupted(asyncio.to_thread(self._cache.publish, digest, made, manifest))
        if slot := await self._find(digest):
            return slot
        raise EnvironmentUnavailableError(f"The image {errand.name} was removed as soon as it was there")

    async def _make(self, found: Found, made: Path, errand: Errand) -> ImageKind:
        """Put the image as it is to run into `made`."""
        if found.form == "sandbox":
            found.path.rename(made / place(SANDBOX))
            return SANDBOX
        if found.form == "sif" and await self._may_mount(errand.work):
            found.path.rename(made / place(SIF))
            return SIF
        errand.log("unpacking the image, once: here every start would do it again")
        await self.puller.unpack(found.path, errand.work, made / place(SANDBOX), errand.name, errand.log)
        return SANDBOX

    async def _may_mount(self, work: Path) -> bool:
        """Asked with the first image file that comes; the answer is a matter of this machine and account."""
        if self._mounts is None:
            tried = await self.puller.mounts(work)
            self._mounts = os.geteuid() == 0 if tried is None else tried
        return self._mounts

    async def _find(self, digest: str) -> Slot | None:
        return await asyncio.to_thread(self._cache.find, digest)


def inquiry(source: RegistryImage, settings: ContainerSettings) -> Inquiry:
    """The question what the reference means now, asked as the runner would; blocking. EnvironmentUnavailableError
    when the operator's logins cannot be read."""
    reference = source.reference
    return Inquiry(reference, login_for(source, settings), scheme_of(reference, settings))


def login_for(source: RegistryImage, settings: ContainerSettings) -> Login | None:
    """The sender's own before the operator's."""
    return source.login or login_in(settings.registry_auth, source.reference)


def scheme_of(reference: Reference, settings: ContainerSettings) -> str:
    return "http" if reference.registry in settings.plain_http else "https"


async def _looked(path: Path, errand: Errand) -> Found:
    try:
        return await asyncio.to_thread(look, path)
    except ArtifactInvalidError as error:
        raise ArtifactInvalidError(f"the image {errand.name} {error}", hint=error.hint) from error


def _digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
