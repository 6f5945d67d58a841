"""What in a message is secret, and how it is left out of what people read."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

HIDDEN = "***"

_SECRET_NAME = re.compile(
    r"secret|passw(or)?d|passphrase|(?<!bos_)(?<!eos_)(?<!pad_)(?<!unk_)(?<!cls_)(?<!sep_)(?<!mask_)token(?!i[sz])|credential|access_?key|api_?key|private_?key|authori[sz]ation|jwt|_pat$|^pat$"
    r"|connection_?string|account_?key|(?-i:[A-Z0-9]_(PWD|SAS)$|[A-Z0-9](?<!PUBLIC)(?<!PRIMARY)(?<!FOREIGN)(?<!PARTITION)(?<!SORT)(?<!CACHE)_KEY$)",
    re.IGNORECASE,
)
_ABOUT = re.compile(
    r"_(name|type|kind|mode|backend|provider|policy|header|algorithm|ttl|host|port|proto|addr|length|size|required|enabled)$",
    re.IGNORECASE,
)
"""How names end that are about secrets, whose values are words of every day."""
_OPTION = re.compile(r"""(?:\A|(?<=[\s'"]))--?([A-Za-z][\w-]*)(?:=|\s+|\Z)""")
_VALUE = re.compile(r"\S*")
_ANOTHER = re.compile(r"(?:--[A-Za-z][\w-]*|-[A-Za-z])(?:=|\s|\Z)")
USERINFO = r"(?:[^/\s]*|[^/\s:@\[]{1,64}:(?!\d*(?:[^\w.~%!$&'()*+,;=-]|\Z))[^\s@\"'<>{}\\]{1,128}+)(?=@(?!sha256:))"
"""What stands before the `@` of an address, also where a password has an `@` or a `/` as it should not (what begins
like a port is none). `@sha256:` is the digest of an image."""
_USERINFO = re.compile(rf"(?<=://){USERINFO}@")
_WORD = re.compile(r"\S+")
PLAIN_NUMBER = re.compile(r"[-+]?[\d.,_]{1,10}(e[-+]?\d+)?", re.IGNORECASE)
"""Up to this length a number may be a step, a size or a loss."""
_SWITCH = re.compile(r"|true|false|yes|no|on|off|none|null", re.IGNORECASE)
_MEASURE = re.compile(r"tokens|token_(ids?|dim|size|len|length|count|limit|dropout)", re.IGNORECASE)
_PLACE = re.compile(r"_(file|path|dir)$", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """True for names of fields and variables whose values nobody is to see."""
    return _SECRET_NAME.search(name) is not None and not _ABOUT.search(name)


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


def masked(value: Any) -> Any:
    """The text of a JSON value, its addresses masked."""
    return mask_urls(value) if isinstance(value, str) else value


Mask = Callable[[Any], Any]
"""From what is neither object nor array to what of it may be seen."""


def without_secrets(value: Any, mask: Mask = masked) -> Any:
    """A copy of a JSON value without its credentials: text of secret names hidden, all else as `mask` shows it,
    also names and the arguments of a script."""
    if isinstance(value, dict):
        return {
            mask(name): HIDDEN if hides(name, inner) else _without(name, inner, mask)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(inner, mask) for inner in value]
    return mask(value)


def _without(name: str, value: Any, mask: Mask) -> Any:
    if name == "args" and isinstance(value, list) and all(isinstance(word, str) for word in value):
        return shown_words(value, mask)
    return without_secrets(value, mask)


def shown_words(words: Sequence[str], mask: Mask = masked) -> list[str]:
    """A command line as people may see it."""
    shown = [mask(word) for word in words]
    for place, start in secret_words(words):
        shown[place] = words[place][:start] + HIDDEN
    return shown


def secret_words(words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """What is secret in a command line (`--password VALUE`, `--token=VALUE`, in words of their own or together in
    one): the words, and where in them it begins, to their ends."""
    for place, word in enumerate(words):
        for option in _OPTION.finditer(word):
            name = option[1].replace("-", "_")
            if not is_secret_name(name):
                continue
            follows, start = place, option.end()
            if start == len(word) and not word.endswith("="):
                follows, start = place + 1, 0
            if follows < len(words) and _is_secret_argument(name, words[follows], start):
                yield follows, start
                break


def _is_secret_argument(name: str, word: str, start: int) -> bool:
    """Whether what begins there in the word is the value of this option, and not the next option."""
    value = _VALUE.match(word, start)
    return value is not None and not _ANOTHER.match(word, start) and is_secret_text(name, value[0])


def hides(name: str, value: Any) -> bool:
    """Text only: an artifact may be called `tokenizer`, and `max_tokens` is a number that people want to see."""
    return name == "credentials" or (isinstance(value, str) and is_secret_text(name, value))


def is_secret_text(name: str, text: str) -> bool:
    """Whether nobody is to see it under this name. Switches, numbers of tokens and names of files open nothing."""
    return (
        is_secret_name(name)
        and not _SWITCH.fullmatch(text)
        and not _PLACE.search(name)
        and not (_MEASURE.search(name) and PLAIN_NUMBER.fullmatch(text))
    )
