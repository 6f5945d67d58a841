"""The same request again, under a new key, with addresses of its own for what it changes."""

from collections.abc import Mapping
from typing import Any

from studio_runner.client.artifacts import readdressed
from studio_runner.client.request import KEPT, again, new_key, request_config
from studio_runner.client.stores import Stores
from studio_runner.config.studioml import StudioConfig
from studio_runner.errors import UsageError
from studio_runner.reports.records import OWN, Record, has_masked


def request_again(record: Record, key: str | None, config: StudioConfig, stores: Stores) -> dict[str, Any]:
    """The request of a record, with the person's present configuration and the settings it was submitted with.

    UsageError when it was submitted with a credential in an address or an argument: records keep none.
    """
    document = {name: value for name, value in record.document.items() if name != OWN}
    if has_masked(document):
        raise UsageError(
            f"Experiment {record.key} was submitted with a credential in an address or an argument, and its record "
            "keeps none",
            hint="Submit it again from its directory.",
        )
    fresh = key or new_key()
    artifacts = readdressed(document.get("artifacts") or {}, stores, fresh)
    kept = record.own.get("config")
    settings = {name: kept[name] for name in KEPT if name in kept} if isinstance(kept, Mapping) else {}
    return {
        "experiment": again(document, fresh, artifacts),
        "config": {**request_config(config, stores), **settings},
    }
