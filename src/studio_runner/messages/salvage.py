"""What can be read of a message that is not valid as a whole: enough to tell its sender so."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from studio_runner.messages.credentials import secrets_in
from studio_runner.messages.crowds import has_too_many_secrets
from studio_runner.messages.jsontext import loads, too_deep
from studio_runner.messages.request import Config

_TOLD = ("database", "runner", "env")
"""The parts of `$.config` that say where the sender looks, and with what that is opened."""


@dataclass(frozen=True)
class Salvaged:
    """`experiment`: the object, None unless at least its key can be read; `config`: the parts that say how to reach
    the sender, those that are valid, None when there is none; `secrets`: what nobody is to see of the message."""

    experiment: Mapping[str, Any] | None = field(default=None, repr=False)
    config: Config | None = None
    secrets: frozenset[str] = field(default=frozenset(), repr=False)


def salvaged(body: bytes) -> Salvaged:
    """What can be read of it; nothing where that is too much, or no JSON."""
    document = _document(body)
    return Salvaged(_experiment(document), _config(document), secrets_in(document))


def _experiment(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    experiment = document.get("experiment")
    if isinstance(experiment, dict) and isinstance(experiment.get("key"), str):
        return experiment
    return None


def _config(document: Mapping[str, Any]) -> Config | None:
    config = document.get("config")
    if not isinstance(config, dict):
        return None
    return Config.model_validate({name: config[name] for name in _TOLD if name in config and _valid(name, config)})


def _valid(name: str, config: Mapping[str, Any]) -> bool:
    try:
        Config.model_validate({name: config[name]})
    except ValidationError:
        return False
    return True


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        document = loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(document, dict) or too_deep(body, document) or has_too_many_secrets(document, body):
        return {}
    return document
