"""The forms in which a secret may turn up in text."""

import base64
import html
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

LONGEST = 1 << 16
"""Characters of a secret that are looked for."""
SEGMENT = 1024
"""Bytes; longer forms are looked for in parts, so that whoever waits for the rest of one waits for little."""
_PLAIN = re.compile(r"[A-Za-z0-9_-]*")
"""Nobody escapes these."""
_SHORTEST_PART = 16
_SHORTEST_LINE = 20


def forms_of(secret: str) -> frozenset[bytes]:
    """As it is, escaped, encoded, and its lines (those of a key in PEM, for example)."""
    secret = secret[:LONGEST]
    texts = (
        {secret} if _PLAIN.fullmatch(secret) else {secret, *_escaped(secret), *_percent(secret), *_lines(secret)}
    )
    raw = _bytes(secret)
    forms = {*map(_bytes, texts), *_base64(raw), *_wrapped(raw), raw.hex().encode(), raw.hex().upper().encode()}
    return frozenset(part for form in forms for part in _parts(form))


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _escaped(secret: str) -> Iterator[str]:
    """As strings of JSON (of Python, JavaScript and Go), strings in such strings, strings of Python, HTML and the
    shell hold it."""
    short, wide = json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]
    for text in (short, wide):
        for slashed in (text, text.replace("/", "\\/")):
            yield slashed
            yield _without_html(slashed)
        yield repr(f'"{text}"')[2:-2]
        yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield _upper_escapes(short)
    yield repr(secret)[1:-1]
    yield repr(_bytes(secret))[2:-1]
    yield html.escape(secret)
    yield html.escape(secret, quote=False)
    yield html.escape(secret).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")
    yield html.escape(secret).replace("&#x27;", "'")
    yield from _shell(secret)


def _shell(secret: str) -> Iterator[str]:
    """Between single quotes, as others and as `set -x` write them; between double ones, as `export` does; without
    any, as `printf %q`."""
    if "'" in secret:
        yield shlex.quote(secret)[1:-1]
        yield secret.replace("'", "'\\''")
    yield re.sub(r'(["$`\\])', r"\\\1", secret)
    yield re.sub(r"([^\w@%+=:./\n-])", r"\\\1", secret)


def _without_html(text: str) -> str:
    """As encoders of JSON do that fear for web pages."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _upper_escapes(text: str) -> str:
    """`\\u00e9` as `\\u00E9`."""
    first, *others = text.split("\\u")
    return "\\u".join((first, *(other[:4].upper() + other[4:] for other in others)))


def _percent(secret: str) -> Iterator[str]:
    raw = _bytes(secret)
    for text in (quote(raw, safe=""), quote(raw), quote_plus(raw)):
        yield text
        first, *others = text.split("%")
        yield "%".join((first, *(other[:2].lower() + other[2:] for other in others)))
        yield quote(text, safe="")


def _base64(raw: bytes) -> Iterator[bytes]:
    """What is the same whatever stands before and after it, at each of the three places in a group."""
    for before in range(3):
        begin, end = -(-8 * before // 6), 8 * (before + len(raw)) // 6
        for encode in (base64.standard_b64encode, base64.urlsafe_b64encode):
            yield encode(b"\0" * before + raw)[begin:end]


def _wrapped(raw: bytes) -> Iterator[bytes]:
    """The lines of what the usual tools make of it alone, in base64."""
    for width in (57, 48):  # bytes of 76 and of 64 characters
        if len(raw) > width:
            lines = (base64.standard_b64encode(raw[at : at + width]) for at in range(0, len(raw), width))
            yield from (line for line in lines if len(line) >= _SHORTEST_PART)


def _lines(secret: str) -> Iterable[str]:
    lines = [line.strip() for line in secret.splitlines()]
    return [line for line in lines if len(line) >= _SHORTEST_LINE and " " not in line] if len(lines) > 1 else ()


def _parts(form: bytes) -> Iterator[bytes]:
    while len(form) >= SEGMENT + _SHORTEST_PART:
        yield form[:SEGMENT]
        form = form[SEGMENT:]
    yield form
