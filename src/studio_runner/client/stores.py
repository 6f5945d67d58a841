"""Where artifacts and experiment records of this person's experiments are kept.

Artifacts are where `storage` of the StudioML configuration says, else in the store of this machine. Records are
where `database` says, else where the runners of this machine keep theirs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio_runner.config.studioml import StudioConfig
from studio_runner.errors import ConfigError

_BUCKET = "storage"
"""What existing clients call the directory under a local endpoint when nobody names one."""

_DEFAULT_HOST = "s3.amazonaws.com"


@dataclass(frozen=True)
class Stores:
    """`root` is the address under which all artifacts are, `own` the directory of this machine's own records;
    `sections` is how a request's `config` says where things are."""

    root: str
    own: Path
    sections: Mapping[str, Any]

    @property
    def bucket(self) -> str:
        """The bucket of the artifacts; empty where they are in a directory."""
        scheme, _, place = self.root.partition("://")
        return "" if scheme == "file" else place.rpartition("/")[2]

    def address(self, key: str) -> str:
        """The address of an artifact; runners take it as it is spelled, nothing is escaped."""
        return f"{self.root}/{key}"

    @property
    def database(self) -> Mapping[str, Any]:
        """Where the records are."""
        section: Mapping[str, Any] = self.sections["database"]
        return section


def stores_of(config: StudioConfig, store: Path) -> Stores:
    """`store` is this machine's own (setting `places.store`)."""
    own = store / "db"
    storage = config.storage or _section(store)
    sections = {"storage": storage, "database": config.database or _section(own)}
    return Stores(_root(config, storage), own, sections)


def stores_here(config: StudioConfig, store: Path) -> Stores:
    """As `stores_of` as far as that is on this machine, else this machine's own."""
    local = {
        name: section
        for name, section in (("storage", config.storage), ("database", config.database))
        if section and kind_of(section) == "local"
    }
    here = StudioConfig(config.path, storage=local.get("storage", {}), database=local.get("database", {}))
    return stores_of(here, store)


def kind_of(section: Mapping[str, Any]) -> str:
    """`local`, `s3`, `gs`, or whatever else a section of the configuration has as its type."""
    kind = str(section.get("type") or "").strip().lower()
    return {"gcloud": "gs", "gcs": "gs"}.get(kind, kind)


def directory_of(section: Mapping[str, Any]) -> Path:
    """The directory of a local section, as existing clients find it."""
    endpoint = Path(str(section.get("endpoint") or "~")).expanduser().absolute()
    return endpoint / str(section.get("bucket") or _BUCKET)


def _section(directory: Path) -> dict[str, str]:
    return {"type": "local", "endpoint": str(directory.parent), "bucket": directory.name}


def _root(config: StudioConfig, storage: Mapping[str, Any]) -> str:
    match kind_of(storage):
        case "local":
            return f"file://{directory_of(storage)}"
        case "s3":
            return f"s3://{_host(storage)}/{_named_bucket(config, storage)}"
        case "gs":
            return f"gs://{_named_bucket(config, storage)}"
        case kind:
            raise ConfigError(
                f"{config.path}: storage.type is {kind or 'missing'!r}, accepted is s3, gs or local",
                hint="Leave storage out to keep artifacts in the store of this machine.",
            )


def _host(storage: Mapping[str, Any]) -> str:
    """`HOST[:PORT]` of an S3 endpoint; without one it is Amazon's."""
    endpoint = str(storage.get("endpoint") or "").strip()
    return (
        endpoint.partition("://")[2].split("/")[0] if "://" in endpoint else endpoint.split("/")[0] or _DEFAULT_HOST
    )


def _named_bucket(config: StudioConfig, storage: Mapping[str, Any]) -> str:
    if bucket := str(storage.get("bucket") or "").strip("/"):
        return bucket
    raise ConfigError(
        f"{config.path}: storage.bucket is missing", hint="Name the bucket that artifacts are kept in."
    )
