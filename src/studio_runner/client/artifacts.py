"""The artifacts of a request: what goes along, what is to come back, and what another experiment left.

Every label becomes a directory beside the script's own. The options' forms are the existing client's.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio_runner.client.stores import Stores
from studio_runner.errors import UsageError

RESULTS = ("modeldir", "retval", "output", "tb", "_metrics", "_metadata", "_results", "_status")
"""Labels that every experiment has beside its workspace, all of them mutable."""

DOCUMENTS = ("_results", "_status")
"""Those that are single JSON files, not directories."""

IMAGE = "_singularity"
"""The label of a container image."""

_REMOTE = re.compile(r"(?:https?|s3|gs|file)://")


@dataclass(frozen=True)
class Capture:
    """`PATH:LABEL`: local data (`path`) or an address (`address`); exactly one of the two is set."""

    label: str
    path: Path | None
    address: str | None = None


@dataclass(frozen=True)
class Reuse:
    """`KEY/LABEL:NEW`: an artifact of another experiment."""

    key: str
    label: str
    new_label: str


def parse_capture(text: str) -> Capture:
    """`--capture` and `--capture-once`: the label is what follows the last colon, else the path's own name."""
    source, colon, label = text.rpartition(":")
    if not colon or (_REMOTE.match(text) and label.startswith("//")):
        source, label = text, text.rstrip("/").rpartition("/")[2]
    _check_label(label, text)
    if _REMOTE.match(source):
        return Capture(label, None, source)
    return Capture(label, Path(source).expanduser().absolute())


def parse_image(text: str) -> Capture:
    """`--container`: a file, the directory of a sandbox, or an address, a registry's reference included."""
    if "://" in text:
        return Capture(IMAGE, None, text)
    return Capture(IMAGE, Path(text).expanduser().absolute())


def parse_reuse(text: str) -> Reuse:
    """`--reuse`; without `:NEW` the artifact keeps its label."""
    source, colon, new_label = text.rpartition(":")
    key, slash, label = (source if colon else text).rpartition("/")
    if not slash or not key:
        raise UsageError(f"--reuse {text!r} is not KEY/LABEL or KEY/LABEL:NEW")
    new_label = new_label if colon else label
    _check_label(new_label, text)
    return Reuse(key, label, new_label)


def results(stores: Stores, key: str) -> dict[str, dict[str, Any]]:
    """What every experiment brings back."""
    return {label: mutable(stores, key, label) for label in RESULTS}


def mutable(stores: Stores, key: str, label: str) -> dict[str, Any]:
    """An artifact that the experiment may change, at its own address."""
    if label in DOCUMENTS:
        return {**_stored(stores, f"experiments/{key}/{label}.json", mutable=True), "unpack": False}
    return _stored(stores, f"experiments/{key}/{label}.tar", mutable=True)


def blob(stores: Stores, digest: str) -> dict[str, Any]:
    """An archive that is stored under its content's hash."""
    return {**_stored(stores, f"blobstore/{digest}.tar", mutable=False), "hash": digest}


def remote(capture: Capture) -> dict[str, Any]:
    """Something that is already at an address: the runner fetches it as it is."""
    address = str(capture.address)
    field = "url" if address.startswith("http") else "qualified"
    return {field: address, "mutable": False, "unpack": False}


def reused(reuse: Reuse, artifacts: Mapping[str, Any]) -> dict[str, Any]:
    """Another experiment's artifact, which this one may read only."""
    if reuse.label not in artifacts:
        known = ", ".join(sorted(artifacts)) or "none"
        raise UsageError(f"Experiment {reuse.key} has no artifact {reuse.label!r}", hint=f"It has: {known}.")
    return {**artifacts[reuse.label], "mutable": False}


def readdressed(artifacts: Mapping[str, Any], stores: Stores, key: str) -> dict[str, Any]:
    """The artifacts of a request for another key: what is mutable gets an address of its own."""
    return {
        label: {**artifact, **mutable(stores, key, label)} if artifact.get("mutable") else dict(artifact)
        for label, artifact in artifacts.items()
    }


def no_duplicates(labels: Sequence[str]) -> None:
    """UsageError when a label is given twice, or is one that every experiment has anyway."""
    for label in sorted(set(_duplicates(labels))):
        raise UsageError(f"The artifact label {label!r} is given twice")
    if "workspace" in labels:
        raise UsageError("The artifact label 'workspace' is taken by the working directory")


def _duplicates(labels: Sequence[str]) -> Iterator[str]:
    return (label for label in labels if labels.count(label) > 1)


def _stored(stores: Stores, key: str, *, mutable: bool) -> dict[str, Any]:
    bucket = {"bucket": stores.bucket} if stores.bucket else {}
    return {"qualified": stores.address(key), "key": key, **bucket, "mutable": mutable, "unpack": True}


def _check_label(label: str, text: str) -> None:
    if not label or label in (".", "..") or "/" in label or "\0" in label or len(label.encode()) > 255:
        raise UsageError(
            f"{text!r} gives no usable label: {label!r}", hint="Write PATH:LABEL; a label is a directory's name."
        )
