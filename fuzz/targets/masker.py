"""Secrets in output, text and values, in any form and any pieces: none is seen, and nothing else is lost."""

import base64
import html
import json
import shlex
from collections.abc import Callable, Iterable
from urllib.parse import quote, quote_plus

from fuzz.picks import Picks
from fuzz.target import noise
from studio_runner.messages.masking import SHOWN, Masker, Stream

MAX_LEN = 2048
SECRETS = (
    *("canary-not-a-secret-0", 'canary "quoted" \\ one', "canary/Not+a=Real&Secret", "cánary-é-0123456789"),
    *("canary", "canary-not-a-secret-0-and-longer", "a" * 16 + "canary", "canarycanarycanary"),
)
WORDS = (
    *(
        b"canary-not-a-secret-",
        b"canary",
        b"AKIA",
        b"ghp_",
        b"eyJ",
        b"sk-",
        b"xoxb-",
        b"Bearer ",
        b"Basic ",
        b"://",
    ),
    *(
        b"-----BEGIN PRIVATE KEY-----\n",
        b"-----END PRIVATE KEY-----",
        b"@",
        b"?X-Amz-Signature=",
        b"%2B",
        b"\\u00e9",
    ),
)
_FORMS: tuple[Callable[[str], bytes], ...] = (
    str.encode,
    lambda secret: base64.b64encode(secret.encode()),
    lambda secret: base64.urlsafe_b64encode(b"xy" + secret.encode() + b"z"),
    lambda secret: quote(secret, safe="").encode(),
    lambda secret: quote_plus(secret).encode(),
    lambda secret: json.dumps(secret)[1:-1].encode(),
    lambda secret: repr(secret)[1:-1].encode(),
    lambda secret: secret.encode().hex().encode(),
    lambda secret: json.dumps(json.dumps(secret))[3:-3].encode(),
    lambda secret: quote(quote(secret, safe=""), safe="").encode(),
    lambda secret: shlex.quote(f"{secret}'")[1:-6].encode(),
    lambda secret: html.escape(secret).encode(),
)
_MASKERS = tuple(Masker(SECRETS[:count]) for count in (0, 1, 4, len(SECRETS)))


def seeds() -> Iterable[bytes]:
    yield b"\x00\x02\x00\x10text with canary-not-a-secret-0 in it and AKIAIOSFODNN7CANARY1 as well"
    yield b"\x00\x01\x00\x03postgres://me:canary@db.example/x http://h.example/o?X-Amz-Signature=c4a4r1"
    yield from (bytes([kind]) + piece for kind in (0, 1, 2) for piece in noise(20, 128))


def check(data: bytes) -> None:
    picks = Picks(data)
    (_pieces, _forms, _values)[picks.below(3)](picks)


def _pieces(picks: Picks) -> None:
    """A stream shows no more than a look at the whole, but for the first bytes of what it could not know yet."""
    masker = picks.one(_MASKERS)
    sizes = [1 + picks.below(40) for _ in range(1 + picks.below(6))]
    data = picks.rest()
    whole, streamed = masker.blank(data), _streamed(masker.stream(), data, sizes)
    assert len(whole) == len(streamed) == len(data)
    assert all(byte in (mask, ord("*")) for byte, mask in zip(whole, data, strict=True))
    assert all(byte in (mask, ord("*")) for byte, mask in zip(streamed, data, strict=True))
    for secret in masker.secrets:
        assert secret.encode() not in whole
        at = data.find(secret.encode())
        assert at < 0 or not streamed[at + SHOWN : at + len(secret.encode())].strip(b"*")
    masker.text(data.decode(errors="replace"))


def _streamed(stream: Stream, data: bytes, sizes: list[int]) -> bytes:
    shown, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        shown.append(stream.feed(data[at : at + size]))
        at, turn = at + size, turn + 1
    return b"".join(shown) + stream.finish()


def _forms(picks: Picks) -> None:
    """One secret in one form, in the midst of anything."""
    secret = picks.one(SECRETS)
    form = picks.one(_FORMS)(secret)
    before, after = picks.some(40), picks.some(40)
    data = before + form + after
    masker = Masker([secret])
    assert secret.encode() not in masker.blank(data)
    sizes = [1 + picks.below(30)]
    for masked, begin in ((masker.blank(data), 0), (_streamed(masker.stream(), data, sizes), SHOWN)):
        shown = masked[len(before) + begin : len(before) + len(form)].replace(b"*", b"")
        assert len(shown) <= 8, (form, shown)  # bits of base64 that the neighbours share


def _values(picks: Picks) -> None:
    """JSON of the secrets' company: no secret is in what comes out."""
    masker = _MASKERS[-1]
    value: object = picks.text(40)
    for _ in range(1 + picks.below(6)):
        inner = picks.one((value, picks.text(20), picks.one(SECRETS), 7, None))
        name = picks.one(("a", "password", picks.one(SECRETS), picks.text(8)))
        value = picks.one(([value, inner], {name: value, "b": inner}, f"{inner} {name}"))
    spelled = json.dumps(masker.value(value), ensure_ascii=False)
    assert not any(secret in spelled for secret in SECRETS if secret.isascii() and '"' not in secret), spelled
