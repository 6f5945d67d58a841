"""Where packages come from: pip's own configuration and uv's, read once into one value that serves both installers.

Only the operator's configuration is read here, never the request's `config.env`: a sender may add an index in a
requirement line of its own (and everybody sees it there), but may not redirect the operator's.
"""

import configparser
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

RECHECK = 1.0
"""Seconds for which the files are taken to be as they were."""

SYSTEM = Path("/etc")
"""Configuration of the whole machine."""

_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})

_UV_NOT_PASSED = (
    "UV_CACHE_DIR",
    "UV_COMPILE_BYTECODE",
    "UV_ENV_FILE",
    "UV_NO_CACHE",
    "UV_NO_PROGRESS",
    "UV_PROJECT",
    "UV_PROJECT_ENVIRONMENT",
    "UV_PUBLISH_",
    "UV_PYTHON",
    "UV_RUN_RECURSION_DEPTH",
    "UV_SYSTEM_PYTHON",
    "UV_TOOL_",
    "UV_VENV_",
    "UV_WORKING_DIR",
)
"""Prefixes of uv's variables that would make it build something other than what was asked for."""


@dataclass(frozen=True)
class Sources:
    """Where to look: URLs (with their credentials) and directories, in pip's terms."""

    default: str | None = None
    extra: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    no_index: bool = False


@dataclass(frozen=True)
class Choices:
    """Which of the files found there to take; `:all:` is allowed where pip allows it."""

    prereleases: bool = False
    no_binary: tuple[str, ...] = ()
    only_binary: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Transport:
    """How to get there."""

    trusted_hosts: tuple[str, ...] = ()
    certificates: str | None = None
    client_certificate: str | None = None
    proxy: str | None = None
    timeout: str | None = None


@dataclass(frozen=True)
class Indexes:
    """The whole configuration. `uv` are variables of uv's own that are passed on as they stand; `files` are uv's
    configuration files as (path, content hash)."""

    sources: Sources = field(default_factory=Sources)
    choices: Choices = field(default_factory=Choices)
    transport: Transport = field(default_factory=Transport)
    uv: Mapping[str, str] = field(default_factory=dict)
    files: tuple[tuple[str, str], ...] = ()

    def fingerprint(self) -> str:
        """A hash over everything that can change what is installed; credentials go in, and cannot come out."""
        constraints = [(path, _content_hash(path)) for path in self.choices.constraints]
        text = json.dumps([asdict(self), constraints], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def with_request(self, sources: Sources, choices: Choices) -> tuple["Indexes", tuple[str, ...]]:
        """What a request's own option lines add, and notes on what of them does not apply."""
        notes = []
        if sources.default and (self.sources.default or self.sources.no_index):
            notes.append("--index-url is left out: this runner's own index is configured and stays")
        elif sources.default:
            self = replace(self, sources=replace(self.sources, default=sources.default))  # noqa: PLW0642
        own = self.sources
        merged = Sources(
            own.default,
            own.extra + sources.extra,
            own.find_links + sources.find_links,
            own.no_index or sources.no_index,
        )
        chosen = Choices(
            self.choices.prereleases or choices.prereleases,
            self.choices.no_binary + choices.no_binary,
            self.choices.only_binary + choices.only_binary,
            self.choices.constraints,
        )
        return replace(self, sources=merged, choices=chosen), tuple(notes)

    def for_uv(self) -> dict[str, str]:
        """Environment variables for uv (there, and not in its arguments, nobody sees credentials)."""
        sources, choices, transport = self.sources, self.choices, self.transport
        return {
            # All indexes count alike, the best version wins: what pip does.
            "UV_INDEX_STRATEGY": "unsafe-best-match",
            **self.uv,
            **_set("UV_DEFAULT_INDEX", sources.default),
            **_set("UV_INDEX", " ".join(sources.extra)),
            **_set("UV_FIND_LINKS", ",".join(_existing(sources.find_links))),
            **_set("UV_CONSTRAINT", " ".join(choices.constraints)),
            **_set("UV_PRERELEASE", "allow" if choices.prereleases else None),
            **_set("UV_INSECURE_HOST", " ".join(transport.trusted_hosts)),
            **_set("SSL_CERT_FILE", transport.certificates),
            **_set("SSL_CLIENT_CERT", transport.client_certificate),
            **_set("ALL_PROXY", transport.proxy),
            **_set("UV_HTTP_TIMEOUT", transport.timeout),
        }

    def uv_options(self) -> tuple[str, ...]:
        """What uv has no variable for."""
        return (
            *(("--no-index",) if self.sources.no_index else ()),
            *(f"--no-binary={name}" for name in self.choices.no_binary),
            *(f"--only-binary={name}" for name in self.choices.only_binary),
        )

    def for_pip(self) -> dict[str, str]:
        """Environment variables for pip, which is not to read its configuration files a second time."""
        sources, choices, transport = self.sources, self.choices, self.transport
        return {
            "PIP_CONFIG_FILE": os.devnull,
            **_set("PIP_INDEX_URL", sources.default),
            **_set("PIP_EXTRA_INDEX_URL", " ".join(sources.extra)),
            **_set("PIP_FIND_LINKS", " ".join(_existing(sources.find_links))),
            **_set("PIP_NO_INDEX", "1" if sources.no_index else None),
            **_set("PIP_CONSTRAINT", " ".join(choices.constraints)),
            **_set("PIP_PRE", "1" if choices.prereleases else None),
            **_set("PIP_NO_BINARY", ",".join(choices.no_binary)),
            **_set("PIP_ONLY_BINARY", ",".join(choices.only_binary)),
            **_set("PIP_TRUSTED_HOST", " ".join(transport.trusted_hosts)),
            **_set("PIP_CERT", transport.certificates),
            **_set("PIP_CLIENT_CERT", transport.client_certificate),
            **_set("PIP_PROXY", transport.proxy),
            **_set("PIP_TIMEOUT", transport.timeout),
        }


class IndexReader:
    """Reads the operator's configuration, again only when one of its files changed."""

    def __init__(self, environ: Mapping[str, str], *, recheck: float = RECHECK) -> None:
        self._environ = dict(environ)
        self._pip_files = tuple(pip_files(environ))
        self._uv_files = tuple(uv_files(environ))
        self._read: tuple[tuple[int, ...], Indexes] | None = None
        self._recheck, self._look_after = recheck, 0.0

    def read(self) -> Indexes:
        now = time.monotonic()
        if self._read is not None and now < self._look_after:
            return self._read[1]
        self._look_after = now + self._recheck
        seen = tuple(_modified(path) for path in (*self._pip_files, *self._uv_files))
        if self._read is None or self._read[0] != seen:
            self._read = seen, read_indexes(self._environ, self._pip_files, self._uv_files)
        return self._read[1]


def read_indexes(environ: Mapping[str, str], pip: Iterable[Path], uv: Iterable[Path]) -> Indexes:
    """pip's files (least important first), then PIP_* variables, then UV_* variables, which win."""
    values = dict(_pip_values(environ, pip))
    uv_values = {name: value for name, value in environ.items() if name.startswith("UV_") and value}
    extra = (uv_values.pop("UV_INDEX", "") + " " + uv_values.pop("UV_EXTRA_INDEX_URL", "")).split()
    sources = Sources(
        default=uv_values.pop("UV_DEFAULT_INDEX", None)
        or uv_values.pop("UV_INDEX_URL", None)
        or values.get("index-url"),
        extra=tuple(extra or values.get("extra-index-url", "").split()),
        find_links=_commas(uv_values.pop("UV_FIND_LINKS", "")) or tuple(values.get("find-links", "").split()),
        no_index=_true(values.get("no-index")),
    )
    choices = Choices(
        prereleases=uv_values.get("UV_PRERELEASE", "") == "allow" or _true(values.get("pre")),
        no_binary=_names(values.get("no-binary")),
        only_binary=_names(values.get("only-binary")),
        constraints=tuple((uv_values.pop("UV_CONSTRAINT", "") or values.get("constraint", "")).split()),
    )
    transport = Transport(
        trusted_hosts=tuple((uv_values.pop("UV_INSECURE_HOST", "") or values.get("trusted-host", "")).split()),
        certificates=environ.get("SSL_CERT_FILE") or values.get("cert"),
        client_certificate=environ.get("SSL_CLIENT_CERT") or values.get("client-cert"),
        proxy=values.get("proxy"),
        timeout=uv_values.pop("UV_HTTP_TIMEOUT", "") or values.get("timeout") or values.get("default-timeout"),
    )
    passed = {name: value for name, value in uv_values.items() if not name.startswith(_UV_NOT_PASSED)}
    files = tuple((str(path), _content_hash(str(path))) for path in uv if path.exists())
    return Indexes(sources, choices, transport, passed, files)


def pip_files(environ: Mapping[str, str]) -> Iterator[Path]:
    """pip's configuration files, least important first (pip's documentation, "Configuration")."""
    chosen = environ.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return
    home = Path(environ.get("HOME") or Path.home())
    for folder in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep):
        yield Path(folder) / "pip/pip.conf"
    yield SYSTEM / "pip.conf"
    yield home / ".pip/pip.conf"
    yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf"
    yield Path(sys.prefix) / "pip.conf"
    if chosen:
        yield Path(chosen)


def uv_files(environ: Mapping[str, str]) -> Iterator[Path]:
    """uv's configuration files; uv reads them itself, here they only count for the fingerprint."""
    home = Path(environ.get("HOME") or Path.home())
    yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "uv/uv.toml"
    for folder in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep):
        yield Path(folder) / "uv/uv.toml"
    yield SYSTEM / "uv/uv.toml"
    if chosen := environ.get("UV_CONFIG_FILE"):
        yield Path(chosen)


def _pip_values(environ: Mapping[str, str], files: Iterable[Path]) -> Iterator[tuple[str, str]]:
    for path in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue  # pip itself would stop here; the build says soon enough if something is missing
        for section in ("global", "install"):
            if parser.has_section(section):
                yield from ((_option(name), value) for name, value in parser.items(section) if value)
    for name, value in environ.items():
        if name.startswith("PIP_") and value:
            yield _option(name.removeprefix("PIP_")), value


def _option(name: str) -> str:
    return name.lower().replace("_", "-").removeprefix("--")


def _existing(places: Iterable[str]) -> list[str]:
    """Without local directories that are not there: pip ignores them, uv would stop."""
    return [place for place in places if _remote(place) or Path(place.removeprefix("file://")).exists()]


def _remote(place: str) -> bool:
    return urlsplit(place).scheme not in ("", "file")


def _set(name: str, value: str | None) -> dict[str, str]:
    return {name: value} if value else {}


def _commas(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _names(text: str | None) -> tuple[str, ...]:
    return _commas((text or "").replace("\n", ","))


def _true(text: str | None) -> bool:
    return (text or "").strip().lower() in _TRUE


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _content_hash(path: str) -> str:
    try:
        return hashlib.sha256(Path(path.removeprefix("file://")).read_bytes()).hexdigest()
    except OSError:
        return ""
