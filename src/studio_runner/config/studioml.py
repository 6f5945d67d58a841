"""`config.yaml` of the StudioML client: what experiments submitted by this person look like.

The same file that existing clients read, with the same rule for variables: `$NAME` and `${NAME}` in the text of
a value are replaced by the environment's, and left alone where it has none.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from studio_runner.errors import ConfigError
from studio_runner.messages import units

FILE_NAME = "config.yaml"
_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})", re.ASCII)
_MOST_VALUES = 100_000
"""In one file, each counted wherever an alias puts it."""
_DEEPEST = 50
_LONGEST_NUMBER = 4096
"""Bits; Python spells no number of many thousands of digits."""


@dataclass(frozen=True)
class StudioConfig:
    """The file, read. `document` is all of it and goes into requests as `config`; the rest is what the front end
    looks at. Durations are seconds, None where the file says nothing. `path` is None when there is no file.
    """

    path: Path | None = None
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)  # holds credentials
    database: Mapping[str, Any] = field(default_factory=dict, repr=False)
    storage: Mapping[str, Any] = field(default_factory=dict, repr=False)
    resources_needed: Mapping[str, Any] = field(default_factory=dict)
    cloud_queue: Mapping[str, Any] = field(default_factory=dict, repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    queue: str | None = None
    verbose: str | None = None
    pip: tuple[str, ...] = ()
    public_key_path: Path | None = None
    signing_key_path: Path | None = None
    signing_key_passphrase_path: Path | None = None
    experiment_lifetime: float | None = None
    save_workspace_frequency: float | None = None
    save_metrics_frequency: float | None = None

    @property
    def own_files(self) -> tuple[Path, ...]:
        """What stays with this person: the private key, and its passphrase."""
        return tuple(path for path in (self.signing_key_path, self.signing_key_passphrase_path) if path)


def read_studio_config(home: Path, environ: Mapping[str, str]) -> StudioConfig:
    """Read `<home>/config.yaml`, else `~/.studioml/config.yaml`, where clients look whatever the home is.

    ConfigError names file, line and key. No file is an empty configuration.
    """
    for path in (home / FILE_NAME, _home(environ) / ".studioml" / FILE_NAME):
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
        return parse_studio_config(text, path, environ)
    return StudioConfig()


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ["HOME"]) if environ.get("HOME") else Path.home()


def parse_studio_config(text: str, path: Path, environ: Mapping[str, str]) -> StudioConfig:
    """`text` is the content of `path`."""
    return _File(path, *_load(text, path)).read(environ)


def _load(text: str, path: Path) -> tuple[yaml.Node | None, object]:
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        _check_size(node, path)
        return node, loader.construct_document(node) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line} is not YAML: {error.problem}") from error
    # PyYAML has its own errors for the defects that it foresees, and Python's for tagged values (`!!int x`)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise ConfigError(f"{path} is not YAML, or a value is not what its tag says: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deep") from error


def _check_size(root: yaml.Node | None, path: Path) -> None:
    """Aliases can make a short file endless."""
    count, waiting = 0, [(root, 0)]
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if count > _MOST_VALUES or depth > _DEEPEST:
            raise ConfigError(
                f"{path} holds more than {_MOST_VALUES:,} values, or more than {_DEEPEST} in one another"
            )
        if isinstance(node, yaml.SequenceNode):
            waiting += [(inner, depth + 1) for inner in node.value]
        elif isinstance(node, yaml.MappingNode):
            waiting += [(inner, depth + 1) for pair in node.value for inner in pair]


@dataclass(frozen=True)
class _File:
    """The parsed file, with its nodes to say where something stands."""

    path: Path
    node: yaml.Node | None
    raw: object

    def read(self, environ: Mapping[str, str]) -> StudioConfig:
        """ConfigError for what is of another kind than it must be."""
        if not isinstance(self.raw, dict):
            raise self._wrong((), self.raw, "a mapping of keys to values")
        document = {**_substituted(_plain(self.raw), environ), **self._environment(environ)}
        return StudioConfig(
            path=self.path,
            document=document,
            database=self._mapping(document, "database"),
            storage=self._mapping(document, "storage"),
            resources_needed=self._mapping(document, "resources_needed"),
            cloud_queue=self._mapping(document, "cloud", "queue"),
            env=self._mapping(document, "env"),
            queue=self._text(document, "queue"),
            verbose=self._text(document, "verbose"),
            pip=self._lines(document, "pip"),
            public_key_path=self._path(document, "public_key_path", environ),
            signing_key_path=self._path(document, "signing_key_path", environ),
            signing_key_passphrase_path=self._path(document, "signing_key_passphrase_path", environ),
            experiment_lifetime=self._duration(document, "experimentLifetime"),
            save_workspace_frequency=self._duration(document, "saveWorkspaceFrequency"),
            save_metrics_frequency=self._duration(document, "saveMetricsFrequency"),
        )

    def _environment(self, environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """`env` with every value as it is written: `ON: yes` and `N: 010` are text to whoever reads them there."""
        node = self._node(("env",))
        if not isinstance(node, yaml.MappingNode):
            return {}
        values = {}
        for key, value in node.value:
            if not isinstance(value, yaml.ScalarNode):
                raise self._wrong(("env", key.value), value.value, "text")
            empty = value.tag == "tag:yaml.org,2002:null"
            values[str(key.value)] = "" if empty else _expand(value.value, environ)
        return {"env": values}

    def _mapping(self, document: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
        value: Any = document
        for depth, key in enumerate(keys, start=1):
            value = value.get(key)
            if value is None:
                return {}
            if not isinstance(value, dict):
                raise self._wrong(keys[:depth], value, "a mapping of keys to values")
        return dict(value)

    def _text(self, document: Mapping[str, Any], key: str) -> str | None:
        value = document.get(key)
        if isinstance(value, dict | list):
            raise self._wrong((key,), value, "text")
        return None if value is None else str(value)

    def _path(self, document: Mapping[str, Any], key: str, environ: Mapping[str, str]) -> Path | None:
        """A relative one starts at the current directory, as it does for existing clients."""
        text = self._text(document, key)
        if text is None:
            return None
        if not text.strip():  # of a variable that is empty, say: nobody who names a key wants to go without
            raise self._wrong((key,), text, "the path of a file")
        return _home(environ) / text[2:] if text.startswith("~/") else Path(text)

    def _lines(self, document: Mapping[str, Any], key: str) -> tuple[str, ...]:
        value = document.get(key)
        if value is None:
            return ()
        if isinstance(value, list) and all(isinstance(line, str) for line in value):
            return tuple(value)
        raise self._wrong((key,), value, "a list of requirement lines")

    def _duration(self, document: Mapping[str, Any], key: str) -> float | None:
        try:
            return units.parse_duration(document.get(key))
        except ValueError as error:
            raise self._wrong((key,), document[key], "a duration such as 1h30m, 20m or 90s") from error

    def _node(self, keys: tuple[str, ...]) -> yaml.Node | None:
        node = self.node
        for key in keys:
            members = node.value if isinstance(node, yaml.MappingNode) else ()
            node = next((value for name, value in reversed(members) if name.value == key), None)  # the last counts
        return node

    def _wrong(self, keys: tuple[str, ...], found: object, accepted: str) -> ConfigError:
        node = self._node(keys)
        line = f", line {node.start_mark.line + 1}" if node is not None else ""
        what = f"{'.'.join(keys)} is" if keys else "the file holds"
        return ConfigError(f"{self.path}{line}: {what} {_described(found)}, accepted is {accepted}")


def _described(found: object) -> str:
    """Without what is inside: this file holds credentials."""
    if isinstance(found, dict):
        return "a mapping"
    if isinstance(found, list):
        return "a list"
    return repr(found) if len(repr(found)) <= 60 else "a long text"


def _plain(value: object) -> Any:
    """What YAML has and JSON has not (dates, keys that are no text) as text: requests are JSON."""
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_plain(member) for member in value]
    if isinstance(value, int) and value.bit_length() > _LONGEST_NUMBER:
        return hex(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | None) else str(value)


def _substituted(value: Any, environ: Mapping[str, str]) -> Any:
    """Variables replaced in every text that is the value of a key, as existing clients do (not within lists)."""
    if isinstance(value, dict):
        return {key: _substituted(member, environ) for key, member in value.items()}
    return _expand(value, environ) if isinstance(value, str) else value


def _expand(text: str, environ: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: environ.get(found[1] or found[2], found[0]), text)
