"""Where artifacts and experiment records of this person's experiments are kept.

`storage` and `database` of the StudioML configuration decide; without them everything is in one directory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio_runner.config.studioml import StudioConfig
from studio_runner.errors import ConfigError
from studio_runner.reports.records import Records

_STORAGE_BUCKET, _DATABASE_BUCKET = "storage", "studioml-meta"
"""What existing clients call the directories under a local endpoint when nobody names them."""


@dataclass(frozen=True)
class Place:
    """A directory that stands for a bucket; `section` is how a request's `config` says so."""

    root: Path
    section: Mapping[str, Any]

    def address(self, key: str) -> str:
        """The address of an object in it; runners take it as it is spelled, nothing is escaped."""
        return f"file://{self.root}/{key}"


@dataclass(frozen=True)
class Stores:
    """The two places."""

    artifacts: Place
    database: Place

    def records(self) -> Records:
        return Records.in_directory(self.database.root)


def stores_of(config: StudioConfig, store: Path) -> Stores:
    """`store` is the embedded default's directory (setting `places.store`)."""
    return Stores(
        artifacts=_place("storage", config, config.storage, _STORAGE_BUCKET, store),
        database=_place("database", config, config.database, _DATABASE_BUCKET, store / "db"),
    )


def _place(name: str, config: StudioConfig, section: Mapping[str, Any], bucket: str, default: Path) -> Place:
    if not section:
        return Place(default, {"type": "local", "endpoint": str(default.parent), "bucket": default.name})
    kind = str(section.get("type", "")).lower()
    if kind != "local":
        raise ConfigError(
            f"{config.path}: {name}.type is {kind or 'missing'!r}; this release keeps artifacts and records in "
            "directories only",
            hint=f"Set {name}.type to local, with the directory as {name}.endpoint, or leave {name} out: {default} "
            "is used then.",
        )
    endpoint = Path(str(section.get("endpoint") or "~")).expanduser().absolute()
    return Place(endpoint / str(section.get("bucket") or bucket), section)
