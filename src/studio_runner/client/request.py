"""The request message of an experiment, as existing clients write it (INTERFACE sections 1 to 3)."""

import shlex
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio_runner.client.stores import Stores
from studio_runner.config.studioml import StudioConfig

RESOURCES = ("cpus", "ram", "hdd", "gpus", "gpuMem", "gpuCount")
OF_THIS_PERSON = ("public_key_path", "signing_key_path", "signing_key_passphrase_path")
"""Settings that mean nothing to a runner: they stay here."""
OWNER = "guest"
"""Whose experiments these are to existing clients that know no users."""

KEPT = ("experimentLifetime", "saveWorkspaceFrequency", "saveMetricsFrequency", "pip", "runner")
"""Settings of a request that its record keeps, so that it can be submitted again; none of them is a secret."""


@dataclass(frozen=True)
class Draft:
    """What one experiment is. `resources` holds what the command line says; the configuration fills the rest."""

    key: str
    filename: str | None
    args: tuple[str, ...] = ()
    python: str = ""
    requirements: tuple[str, ...] = ()
    artifacts: Mapping[str, Any] = field(default_factory=dict)
    resources: Mapping[str, Any] = field(default_factory=dict)
    project: str | None = None
    max_duration: str | None = None
    lifetime: str | None = None


def new_key() -> str:
    """`<unix seconds>_<uuid4>`, as the existing client names experiments."""
    return f"{int(time.time())}_{uuid.uuid4()}"


def entry_point(script: str | None) -> tuple[str | None, tuple[str, ...]]:
    """The message's `filename` and its first arguments: `pkg::module` is run as `-m pkg.module`; None is a
    container's own program."""
    if script is not None and "::" in script:
        return "-m", (script.replace("::", ".").removeprefix("."),)
    return script, ()


def script_path(script: str, root: Path) -> str:
    """The file that is run, relative to the workspace: `pkg::module` is `pkg/module.py`, of a package its
    `__main__.py`."""
    if "::" not in script:
        return script
    module = script.replace("::", "/").removeprefix("/")
    main = f"{module}/__main__.py"
    return main if (root / main).is_file() else f"{module}.py"


def message(draft: Draft, config: StudioConfig, stores: Stores) -> dict[str, Any]:
    """The whole request."""
    filename, first = entry_point(draft.filename)
    resources = {name: value for name, value in config.resources_needed.items() if name in RESOURCES}
    resources |= {name: value for name, value in draft.resources.items() if value is not None}
    experiment = {
        "key": draft.key,
        "status": "waiting",
        "pythonver": draft.python,
        "filename": filename,
        "args": [shlex.quote(argument) for argument in (*first, *draft.args)],
        "max_duration": draft.max_duration,
        "time_added": time.time(),
        "pythonenv": list(draft.requirements),
        "resources_needed": resources,
        "artifacts": dict(draft.artifacts),
        "project": draft.project,
        "owner": OWNER,
        "time_started": None,
        "time_last_checkpoint": None,
        "time_finished": None,
        "info": {},
        "git": None,
        "metric": None,
        "from_compl_service": False,
    }
    return {"experiment": experiment, "config": request_config(config, stores, draft.lifetime)}


def request_config(config: StudioConfig, stores: Stores, lifetime: str | None = None) -> dict[str, Any]:
    """The person's configuration, with the stores that are really used."""
    own = {name: value for name, value in config.document.items() if name not in OF_THIS_PERSON}
    whole = {**own, **stores.sections}
    return {**whole, "experimentLifetime": lifetime} if lifetime else whole


def again(document: Mapping[str, Any], key: str, artifacts: Mapping[str, Any]) -> dict[str, Any]:
    """The `experiment` object of a record as a new experiment."""
    fresh = {name: value for name, value in document.items() if name != "studio_runner"}
    times: Sequence[str] = ("time_started", "time_last_checkpoint", "time_finished")
    return {
        **fresh,
        **dict.fromkeys(times),
        "key": key,
        "status": "waiting",
        "time_added": time.time(),
        "artifacts": dict(artifacts),
    }
