"""The directory of credentials that `--sqs-certs` names.

It, and every directory in it, may hold a file `credentials` and a file `config` in the form of AWS tools, with any
number of profiles. Kubernetes mounts a secret as links into a hidden directory, so names with a dot are left out.
"""

import configparser
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from studio_runner.errors import ConfigError

_SOURCES = {"aws_access_key_id", "role_arn", "credential_process", "web_identity_token_file", "sso_start_url"}
"""Any of these makes a profile more than a choice of region."""


@dataclass(frozen=True)
class Profile:
    """One set of credentials and its region."""

    name: str
    region: str
    credentials: Path
    config: Path

    def __str__(self) -> str:
        return f"profile {self.name} of {self.credentials}"


def profiles_in(directory: Path, region: str) -> list[Profile]:
    """All of them; `region` is for those that name none. ConfigError when there is none, or one is of no use."""
    found = [profile for place in _places(directory) for profile in _profiles(place, region)]
    if not found:
        raise ConfigError(
            f"no AWS credentials in {directory}",
            hint="it, or a directory in it, needs a file `credentials` in the form of AWS tools",
        )
    return found


def _places(directory: Path) -> Iterator[Path]:
    if not directory.is_dir():
        raise ConfigError(
            f"{directory} is not a directory", hint="--sqs-certs names a directory with `credentials`"
        )
    for place, below, files in os.walk(directory):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if "credentials" in files or "config" in files:
            yield Path(place)


def _profiles(place: Path, otherwise: str) -> Iterator[Profile]:
    credentials, config = place / "credentials", place / "config"
    keys, more = _read(credentials), _read(config)
    settings = {name: more.get(name, {}) | keys.get(name, {}) for name in [*keys, *(more.keys() - keys.keys())]}
    default = settings.get("default", {}).get("region", "") or otherwise
    for name, values in settings.items():
        if not _SOURCES & values.keys():
            continue
        region = values.get("region") or default
        if not region:
            raise ConfigError(
                f"{credentials}: profile {name} has no region",
                hint=f"write `region = ...` into {config}, or --sqs-region",
            )
        yield Profile(name, region, credentials, config)


def _read(path: Path) -> dict[str, dict[str, str]]:
    """Sections by the name of their profile; the values of `config` are under `[profile NAME]`."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {type(error).__name__}") from error
    except configparser.Error:
        # Not chained: the parser's own words quote the line, which may hold the secret.
        raise ConfigError(
            f"{path} is not in the form of AWS credentials files", hint="see docs/reference/sqs.md"
        ) from None
    return {name.removeprefix("profile ").strip(): dict(parser[name]) for name in parser.sections()}
