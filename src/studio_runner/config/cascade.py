"""Where settings come from: packaged defaults, then a file, then the environment, then flags; the last one wins."""

import difflib
import os
import re
import tomllib
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from studio_runner.config import kinds
from studio_runner.config.options import BY_KEY, NOT_HERE, OPTIONS, PREFIX, Option, variable_name
from studio_runner.config.settings import Settings
from studio_runner.errors import ConfigError

CONFIG_VARIABLE = f"{PREFIX}CONFIG"
SYSTEM_FILE = Path("/etc/studio-runner/config.toml")
MASK = "********"
DEFAULT = "default"


@dataclass(frozen=True)
class _Saying:
    """What one source says about one setting, not yet understood. `base` is what a relative path starts from, None
    for the current directory."""

    option: Option
    raw: object
    origin: str
    base: Path | None = None


@dataclass(frozen=True)
class Value:
    """A setting as it counts, and where it came from. `default` is set when nobody said anything."""

    option: Option
    value: object
    origin: str
    default: bool

    @property
    def shown(self) -> str:
        """For people; a secret is never written out."""
        if self.option.secret:
            return MASK if self.value else ""
        return self.option.kind.show(self.value)


@dataclass(frozen=True)
class Configuration:
    """The settings with their history. `file` is the configuration file that was read, if any; `notes` are things
    in the environment that look like settings and are none."""

    settings: Settings
    values: Mapping[str, Value]
    file: Path | None
    notes: tuple[str, ...]


def load(
    environ: Mapping[str, str], flags: Mapping[str, object] | None = None, file: Path | None = None
) -> Configuration:
    """Read all sources. `flags` are keys (`queues.match`) with what the command line says; `file` (`--config`)
    stands before every other place of the configuration file.

    ConfigError names the setting, where its value stands, what was found and what is accepted.
    """
    used = file or find_file(environ)
    sayings = (*_from_file(used), *_from_environment(environ), *_from_flags(flags or {}))
    said = {saying.option.key: saying for saying in sayings}  # the last one stays
    values = _understand(said, _Directories.of(environ))
    return Configuration(_settings(values), values, used, tuple(_notes(environ)))


def find_file(environ: Mapping[str, str]) -> Path | None:
    """The configuration file: the one that is named, else the user's, else the machine's, else none."""
    if named := environ.get(CONFIG_VARIABLE):
        return Path(named)
    user = Path(environ.get("XDG_CONFIG_HOME") or _home(environ) / ".config") / "studio-runner" / "config.toml"
    return next((path for path in (user, SYSTEM_FILE) if os.path.isfile(path)), None)  # noqa: PTH113  closed to us: none


def default_of(option: Option) -> str:
    """The packaged default as it is written there."""
    default = _defaults()[option.key]
    return str(default).lower() if isinstance(default, bool) else str(default)


def _defaults() -> dict[str, object]:
    text = Path(__file__).with_name("defaults.toml").read_text("utf-8")  # importlib.resources costs 10 ms
    return {f"{group}.{name}": raw for group, table in tomllib.loads(text).items() for name, raw in table.items()}


def _from_file(path: Path | None) -> Iterator[_Saying]:
    if path is None:
        return
    for group, table in _read_toml(path).items():
        if not isinstance(table, dict):
            raise _unknown(group, {option.group for option in OPTIONS}, path, "section")
        for name, raw in table.items():
            yield _Saying(_named(group, name, path), raw, str(path), path.absolute().parent)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"The configuration file {path} cannot be read: {error.strerror}",
            hint=f"Name a file that is there with --config or {CONFIG_VARIABLE}, or do without one.",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration file {path} is not TOML: {error}") from error


def _named(group: str, name: str, path: Path) -> Option:
    groups = {option.group for option in OPTIONS}
    if group not in groups:
        raise _unknown(group, groups, path, "section")
    if option := BY_KEY.get(f"{group}.{name}"):
        return option
    raise _unknown(f"{group}.{name}", BY_KEY, path, "key")


def _unknown(found: str, known: Iterable[str], path: Path, what: str) -> ConfigError:
    near = _near(found, known)
    return ConfigError(
        f"{path} has an unknown {what} {found!r}{f': did you mean {near!r}?' if near else ''}",
        hint="`studio-runner config show` lists every key.",
    )


def _near(found: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    return next(iter(difflib.get_close_matches(found, list(known), n=1, cutoff=cutoff)), None)


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Saying]:
    """A variable that is set and empty counts as not set: container platforms cannot leave one out."""
    if kinds.says_yes(environ.get("DEBUG", "")):
        yield _Saying(BY_KEY["log.level"], "debug", "environment DEBUG")
    for option in OPTIONS:
        for name in reversed(option.variables):
            if raw := environ.get(name):
                yield _Saying(option, raw, f"environment {name}")


def _from_flags(flags: Mapping[str, object]) -> Iterator[_Saying]:
    for key, raw in flags.items():
        yield _Saying(BY_KEY[key], raw, f"flag {BY_KEY[key].flag}")


def _notes(environ: Mapping[str, str]) -> Iterator[str]:
    """Variables that were probably meant for us, and do nothing."""
    known = {name for option in OPTIONS for name in option.variables} | {CONFIG_VARIABLE}
    for name in sorted(set(environ) - known):
        # only near misses: Kubernetes makes variables of this prefix for a service of this name
        if name.startswith(PREFIX) and (near := _near(name, known, 0.85)):
            yield f"{name} is set and means nothing: did you mean {near}?"
    for flag, explanation in NOT_HERE.items():
        if environ.get(variable_name(flag)):
            yield f"{variable_name(flag)} is set and does nothing: {explanation}"


@dataclass(frozen=True)
class _Directories:
    """What `~`, `{home}` and `{cache}` stand for."""

    user: Path
    cache: Path
    home: Path | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "_Directories":
        user = _home(environ)
        return cls(user, Path(environ.get("XDG_CACHE_HOME") or user / ".cache"))

    def resolve(self, path: Path, base: Path | None) -> Path:
        text = os.fspath(path)
        if text == "~" or text.startswith("~/"):
            text = f"{self.user}{text[1:]}"
        return Path(os.path.abspath(base / text if base else text))  # noqa: PTH100  `..` goes, links stay

    def fill(self, text: str) -> str:
        return text.replace("{home}", str(self.home)).replace("{cache}", str(self.cache))


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ["HOME"]) if environ.get("HOME") else Path.home()


def _understand(said: Mapping[str, _Saying], directories: _Directories) -> dict[str, Value]:
    defaults = _defaults()
    values: dict[str, Value] = {}
    for option in OPTIONS:  # places.home comes first: the other places are under it
        value = _value(option, said.get(option.key), defaults[option.key], directories)
        values[option.key] = value
        if option.key == "places.home":
            directories = _Directories(directories.user, directories.cache, Path(str(value.value)))
    return values


def _value(option: Option, said: _Saying | None, default: object, directories: _Directories) -> Value:
    if said is None:
        text = directories.fill(default) if isinstance(default, str) and option.kind is kinds.PATH else default
        said = _Saying(option, text, DEFAULT)
    try:
        value = option.kind.read(said.raw)
    except ValueError as error:
        raise _bad(option, said, error) from error
    if isinstance(value, Path):
        value = directories.resolve(value, said.base)
    return Value(option, value, said.origin, said.origin == DEFAULT)


def _bad(option: Option, said: _Saying, error: Exception) -> ConfigError:
    hidden = option.secret or option.kind is kinds.URL  # addresses may hold a password
    found = MASK if hidden else _shortened(said.raw)
    why = f" ({error})" if type(error) is ValueError and not option.secret else ""
    return ConfigError(
        f"The setting {option.key} ({said.origin}) is {found}{why}: accepted is {option.kind.accepted}"
    )


def _shortened(raw: object) -> str:
    text = re.sub(r"[^\x20-\x7e\xa0-\uffff]", "?", repr(raw))
    return text if len(text) <= 80 else f"{text[:77]}..."


def _settings(values: Mapping[str, Value]) -> Settings:
    groups = {
        group: typed(**{field.name: values[f"{group}.{field.name}"].value for field in fields(typed)})
        for group, typed in typing.get_type_hints(Settings).items()
    }
    return Settings(**groups)
