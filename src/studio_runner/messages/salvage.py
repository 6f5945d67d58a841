"""What can be read of a message that is not valid as a whole: enough to tell its sender so."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from studio_runner.messages.credentials import secrets_in
from studio_runner.messages.crowds import has_too_many_secrets
from studio_runner.messages.jsontext import loads, too_deep
from studio_runner.messages.request import Config

_TOLD = ("database", "runner", "env")
"""The parts of `$.config` that say where the sender looks, and with what that is opened."""


def salvaged_experiment(body: bytes) -> Mapping[str, Any] | None:
    """The `experiment` object, if at least its key can be read."""
    experiment = _document(body).get("experiment")
    if isinstance(experiment, dict) and isinstance(experiment.get("key"), str):
        return experiment
    return None


def salvaged_config(body: bytes) -> Config | None:
    """The parts of `config` that say how to reach the sender, those that are valid; None when there is none."""
    config = _document(body).get("config")
    if not isinstance(config, dict):
        return None
    return Config.model_validate({name: config[name] for name in _TOLD if name in config and _valid(name, config)})


def salvaged_secrets(body: bytes) -> frozenset[str]:
    """What nobody is to see of it, as far as it is JSON."""
    return secrets_in(_document(body))


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
