"""What a message is called while it lies on a queue: its experiment's key, or, when it is sealed, something made of
what everybody sees of it. There is nothing that looking for a name fails at."""

import hashlib
import json
from typing import Any

from studio_runner.messages.jsontext import loads

_SEALED = "(sealed "


def sealed_name(payload: str) -> str:
    """Of a sealed message, from its payload."""
    return f"{_SEALED}{hashlib.sha256(payload.encode('utf-8', 'replace')).hexdigest()[:12]})"


def name_of(body: bytes) -> str:
    """Empty for what is no request, sealed or not."""
    try:
        document = loads(body)
    except (ValueError, RecursionError):
        return ""
    key, payload = _at(document, "experiment", "key"), _at(document, "message", "payload")
    if isinstance(key, str):
        return key
    return sealed_name(payload) if isinstance(payload, str) else ""


def name_if_sealed(body: bytes) -> str:
    """Empty for what is not sealed: the key in a message that nobody believes is anybody's."""
    name = name_of(body)
    return name if name.startswith(_SEALED) else ""


def is_called(body: bytes, name: str) -> bool:
    """Whether this is the name of the message. Quick for most that it is not the name of."""
    spellings = {name, json.dumps(name)[1:-1]}
    if not name.startswith(_SEALED) and not any(
        spelled.encode("utf-8", "replace") in body for spelled in spellings
    ):
        return False
    return bool(name) and name_of(body) == name


def _at(document: Any, outer: str, inner: str) -> Any:
    found = document.get(outer) if isinstance(document, dict) else None
    return found.get(inner) if isinstance(found, dict) else None
