"""Messages with more secrets than anybody can look for in everything that is said."""

from collections.abc import Mapping
from typing import Any

from studio_runner.messages.credentials import secrets_in

MOST_SECRETS = 2_000
"""Different ones in one message. Each is looked for in a dozen forms, of all experiments that run."""

MOST_ADDRESSES = 100_000
"""In one message. In each is looked for secrets."""

_SMALL = 1 << 14
"""Bytes of a message that has no room for so many."""


def has_too_many_secrets(document: Mapping[str, Any], body: bytes) -> bool:
    """Whether the JSON object that `body` spells has more secrets than MOST_SECRETS, or seconds of addresses."""
    return len(body) > _SMALL and (
        _addresses(document) > MOST_ADDRESSES or len(secrets_in(document)) > MOST_SECRETS
    )


def _addresses(document: Mapping[str, Any]) -> int:
    """About how many there are in all its texts."""
    count, waiting = 0, [document]
    while waiting:
        value: Any = waiting.pop()
        if isinstance(value, str):
            count += value.count("://")
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return count
