"""Messages with more secrets than anybody can look for in everything that is said."""

from collections.abc import Mapping
from typing import Any

from studio_runner.messages.credentials import secrets_in
from studio_runner.messages.jsontext import signs

MOST_SECRETS = 2_000
"""Different ones in one message. Each is looked for in a dozen forms, of all experiments that run."""


def has_too_many_secrets(document: Mapping[str, Any], body: bytes) -> bool:
    """Whether the JSON object that `body` spells has more than MOST_SECRETS."""
    # Hardly a message spells so many values at all, or addresses in them: no need to look at each.
    return signs(body) > MOST_SECRETS and len(secrets_in(document)) > MOST_SECRETS
