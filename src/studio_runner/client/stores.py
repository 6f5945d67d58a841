"""Where artifacts and experiment records of this person's experiments are kept.

Artifacts are where `storage` of the StudioML configuration says, else in the store of this machine. Records are
where the runners of this machine keep them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio_runner.config.studioml import StudioConfig
from studio_runner.errors import ConfigError
from studio_runner.reports.records import Records

_BUCKET = "storage"
"""What existing clients call the directory under a local endpoint when nobody names one."""


@dataclass(frozen=True)
class Stores:
    """The directories of artifacts and of records, and how a request's `config` says so."""

    artifacts: Path
    database: Path
    sections: Mapping[str, Any]

    def address(self, key: str) -> str:
        """The address of an artifact; runners take it as it is spelled, nothing is escaped."""
        return f"file://{self.artifacts}/{key}"

    def records(self) -> Records:
        return Records.in_directory(self.database)


def stores_of(config: StudioConfig, store: Path) -> Stores:
    """`store` is this machine's own (setting `places.store`)."""
    database = store / "db"
    storage = config.storage or _section(store)
    sections = {"storage": storage, "database": config.database or _section(database)}
    return Stores(_directory(config, storage), database, sections)


def _section(directory: Path) -> dict[str, str]:
    return {"type": "local", "endpoint": str(directory.parent), "bucket": directory.name}


def _directory(config: StudioConfig, storage: Mapping[str, Any]) -> Path:
    kind = str(storage.get("type", "")).lower()
    if kind != "local":
        raise ConfigError(
            f"{config.path}: storage.type is {kind or 'missing'!r}; this release keeps artifacts in directories",
            hint="Set storage.type to local, with the directory as storage.endpoint, or leave storage out.",
        )
    endpoint = Path(str(storage.get("endpoint") or "~")).expanduser().absolute()
    return endpoint / str(storage.get("bucket") or _BUCKET)
