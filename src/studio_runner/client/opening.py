"""Opening what is stored, with the credentials that this person's configuration has."""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from studio_runner.config.reach import ANYWHERE, Reach
from studio_runner.config.settings import StorageSettings
from studio_runner.errors import ConfigError, InvalidMessageError, StorageUnavailableError
from studio_runner.storage.base import Store

if TYPE_CHECKING:  # a person whose experiments are all on this machine needs nothing of it
    from studio_runner.messages.artifact import Artifact
    from studio_runner.messages.request import Request
    from studio_runner.storage.registry import Stores


class Opener(Protocol):
    """Finds the object of an artifact."""

    def open(self, artifact: "Artifact") -> tuple[Store, str]:
        """Its store, and its key there."""
        ...


class OwnOpener:
    """With the credentials of the artifact itself, else of the configuration, as a runner would of a request that
    has this configuration; one for a command, closed at its end."""

    def __init__(self, config: Mapping[str, Any], settings: StorageSettings) -> None:
        self._config, self._settings = config, settings

    def open(self, artifact: "Artifact") -> tuple[Store, str]:
        if artifact.location.scheme == "file":
            return _on_this_machine(artifact)
        from studio_runner.storage.access import access_to  # noqa: PLC0415

        return self._stores.open(artifact.location, access_to(self._request, artifact))

    def open_address(self, address: str) -> tuple[Store, str]:
        """The object that is at `address`, or will be."""
        from studio_runner.messages.artifact import Artifact  # noqa: PLC0415

        return self.open(Artifact(qualified=address))

    def open_section(self, section: Mapping[str, Any]) -> Store:
        """The bucket that `storage` or `database` of the configuration describes."""
        from studio_runner.storage.access import access_of_section  # noqa: PLC0415

        config = read_config({"storage": section, "env": self._config.get("env") or {}}).config
        assert config.storage is not None  # noqa: S101  it was given
        location, access = access_of_section(config.storage, config.env)
        return self._stores.open(location, access)[0]

    async def close(self) -> None:
        """Give back its connections."""
        if "_stores" in self.__dict__:
            await self._stores.close()

    @cached_property
    def _stores(self) -> "Stores":
        from studio_runner.storage.registry import Stores  # noqa: PLC0415

        return Stores(self._settings)

    @cached_property
    def _request(self) -> "Request":
        return read_config(self._config)


class HereOpener:
    """What is on this machine within `reach`, and nothing that somebody's credentials would be needed for."""

    def __init__(self, reach: Reach = ANYWHERE) -> None:
        self._reach = reach

    def open(self, artifact: "Artifact") -> tuple[Store, str]:
        if artifact.location.scheme != "file":
            raise StorageUnavailableError(f"{artifact.address} is not on this machine")
        return _on_this_machine(artifact, self._reach)


def _on_this_machine(artifact: "Artifact", reach: Reach = ANYWHERE) -> tuple[Store, str]:
    from studio_runner.storage.registry import Stores  # noqa: PLC0415

    return Stores(reach=reach).open(artifact.location)


def read_config(config: Mapping[str, Any]) -> "Request":
    """A request that has `config` and names no experiment: what opens its stores is all that is asked of it."""
    from pydantic import ValidationError  # noqa: PLC0415

    from studio_runner.messages.request import Config, Experiment, Request  # noqa: PLC0415
    from studio_runner.messages.validation import invalid_message  # noqa: PLC0415

    try:
        return Request(Experiment(key="none"), Config.model_validate(config), {"experiment": {}}, b"")
    except ValidationError as error:
        raise _unusable(invalid_message(error)) from error


def _unusable(error: InvalidMessageError) -> ConfigError:
    return ConfigError(
        f"The StudioML configuration cannot be used: {error.path.removeprefix('$.')} is {error.found}, "
        f"accepted is {error.accepted}"
    )
