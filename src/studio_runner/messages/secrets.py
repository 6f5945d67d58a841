"""What in a message is secret, and how it is left out of what people read."""

import re
from typing import Any

HIDDEN = "***"

_SECRET_NAME = re.compile(
    r"secret|passw(or)?d|passphrase|token(?!i[sz])|credential|access_?key|api_?key|private_?key|authori[sz]ation|jwt|_pat$|^pat$"
    r"|connection_?string|(?-i:[A-Z0-9]_(KEY|PWD|SAS)$)",
    re.IGNORECASE,
)
_USERINFO = re.compile(r"(?<=://)[^/\s@]*@(?!sha256:)")  # that would be the digest of an image
_WORD = re.compile(r"\S+")


def is_secret_name(name: str) -> bool:
    """True for names of fields and variables whose values nobody is to see."""
    return _SECRET_NAME.search(name) is not None


def is_secret(name: str, value: str) -> bool:
    """True for variables that open something: by their name, or by an address with a password in their value."""
    return is_secret_name(name) or mask_urls(value) != value


def mask_urls(text: str) -> str:
    """The text without what stands before the `@` and after the `?` of addresses in it (presigned addresses carry
    their permission there)."""
    if "://" not in text:
        return text
    return _WORD.sub(_without_query, _USERINFO.sub(f"{HIDDEN}@", text))


def _without_query(word: re.Match[str]) -> str:
    """By hand: one expression for it would look for a `?` again behind every `://` of a hostile text."""
    _, address, rest = word[0].partition("://")
    query = rest.partition("?")[2] if address else ""
    return word[0].removesuffix(query) + HIDDEN if query else word[0]


def without_secrets(value: Any) -> Any:
    """A copy of a JSON value without its credentials: text of secret names hidden, addresses masked."""
    if isinstance(value, dict):
        return {name: HIDDEN if hides(name, inner) else without_secrets(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [without_secrets(inner) for inner in value]
    return mask_urls(value) if isinstance(value, str) else value


def hides(name: str, value: Any) -> bool:
    """Text only: an artifact may be called `tokenizer`, and `max_tokens` is a number that people want to see."""
    return name == "credentials" or (isinstance(value, str) and is_secret_name(name))
