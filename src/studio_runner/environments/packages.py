"""What is installed in an environment, read from its own metadata."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_REQUIRED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Package:
    """One installed distribution. `requires` are the names of what it depends on (extras left out), `size` its
    files' bytes; two environments that share the files share `identity`."""

    name: str
    version: str
    requires: tuple[str, ...]
    size: int
    identity: str


def site_packages(prefix: Path) -> Path:
    """The one directory of an environment that packages are installed into."""
    return next(prefix.glob("lib/*/site-packages"))


def installed(site: Path) -> tuple[Package, ...]:
    """Every distribution in `site`, by name."""
    found = [_package(folder) for folder in sorted(site.iterdir()) if folder.suffix in (".dist-info", ".egg-info")]
    return tuple(sorted((one for one in found if one is not None), key=lambda one: one.name.lower()))


def _package(folder: Path) -> Package | None:
    metadata = next((path for name in ("METADATA", "PKG-INFO", "") if (path := folder / name).is_file()), None)
    if metadata is None:
        return None
    headers = list(_headers(metadata))
    fields = dict(reversed(headers))
    if "name" not in fields or "version" not in fields:
        return None
    status = metadata.stat()
    return Package(
        name=fields["name"],
        version=fields["version"],
        requires=tuple(dict.fromkeys(_requires(headers))),
        size=record_size(folder / "RECORD"),
        identity=f"{status.st_dev}:{status.st_ino}",
    )


def _headers(metadata: Path) -> Iterator[tuple[str, str]]:
    """Header fields, names in lower case; the description after the first blank line is not read."""
    with metadata.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.strip():
                return
            name, colon, value = line.partition(":")
            if colon and not line[0].isspace():
                yield name.lower(), value.strip()


def _requires(headers: list[tuple[str, str]]) -> Iterator[str]:
    for name, value in headers:
        _, _, marker = value.partition(";")
        if name == "requires-dist" and "extra" not in marker and (match := _REQUIRED_NAME.match(value)):
            yield match.group()


def record_size(record: Path) -> int:
    """The sum of what RECORD says (PEP 376 and 427); without one it counts as nothing."""
    if not record.is_file():
        return 0
    sizes = (line.rpartition(",")[2] for line in record.read_text(encoding="utf-8", errors="replace").splitlines())
    return sum(int(size) for size in sizes if size.isdecimal())
