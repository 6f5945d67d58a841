"""Credentials that are known by their looks."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

_TOKEN, _LONG = 512, 4096
"""Bytes of a token, and of one that may hold others; no more of one is hidden."""
_WORD = rb"[A-Za-z0-9_-]"
_DIGIT = rb"(?=[A-Za-z._~+/=-]{0,64}[0-9])"
"""Words have none."""
_LONGEST_KEY = 8192
_KEY_LINES = rb'(?:[A-Za-z0-9+/=\\"]|[\r\n]++[ \t]{0,16}+){0,%d}+' % _LONGEST_KEY
"""Possessive: line ends can be counted in more ways than there is time to try."""


class Found(NamedTuple):
    """What was found where something began: the span to hide, and whether more bytes could make it longer."""

    begin: int
    end: int
    is_open: bool


@dataclass(frozen=True)
class Shape:
    """`head` is what it begins with, `whole` a pattern of what follows, whose group `hidden` nobody is to see, and
    `begun` one of at most `most` bytes that may become such with more of them. `apart`: no letter stands before."""

    head: bytes
    whole: bytes
    begun: bytes
    most: int = _TOKEN
    apart: bool = False

    def look(self, data: bytes, start: int) -> Found:
        """Its head is at `start`."""
        match = self._whole.match(data, start)
        begin, end = match.span("hidden") if match else (start, start)
        is_open = len(data) - start <= self.most + len(self.head) and self._begun.match(data, start) is not None
        return Found(begin, end, is_open)

    @cached_property
    def _whole(self) -> re.Pattern[bytes]:
        return re.compile(self._before + self.whole)

    @cached_property
    def _begun(self) -> re.Pattern[bytes]:
        return re.compile(rb"%b%b\Z" % (self._before, self.begun))

    @property
    def _before(self) -> bytes:
        return (rb"(?<![A-Za-z0-9])" if self.apart else b"") + re.escape(self.head)


def _token(head: bytes, least: int, body: bytes = _WORD, condition: bytes = b"") -> Shape:
    """A word of its own that begins with `head` and goes on for `least` characters or more."""
    whole = rb"%b(?P<hidden>%b{%d,%d})" % (condition, body, least, _TOKEN)
    return Shape(head, whole, rb"%b{0,%d}" % (body, _TOKEN - 1), apart=True)


def _long(head: bytes, before: bytes, body: bytes, least: int) -> Shape:
    """`before` and at least so many characters."""
    whole, begun = rb"%b(?P<hidden>%b{%d,%d})" % (before, body, least, _LONG), rb"%b{0,%d}" % (body, _LONG - 1)
    return Shape(head, whole, begun, _LONG)


def _parameter(name: bytes) -> Shape:
    """Of an address."""
    return _long(name, b"", rb"[!#-%(-;=?-\[\]-~]", 6)  # what is printed, without quotes and what ends a parameter


def _userinfo(head: bytes) -> Shape:
    """Of an address: `user:password@`, or a token alone before the `@`. (`@sha256:` is the digest of an image.) A
    password may hold an `@`."""
    one = rb'[^\s/@"\\<>{}?#\x00-\x1f]'
    both = rb"%b{0,64}:%b{1,256}+(?:@%b{1,256}+){0,3}" % (one, one, one)
    whole = rb"(?=%b{3,320}+@(?!sha256:))(?P<hidden>%b|%b{16,256})@" % (one, both, one)
    return Shape(head, whole, rb"%b{0,320}(?:@%b{0,256}){0,4}" % (one, one), 640)


SHAPES = (
    *map(_userinfo, (b"://", rb":\/\/")),
    *map(
        _parameter,
        (
            *(b"X-Amz-Signature=", b"X-Amz-Credential=", b"X-Amz-Security-Token=", b"AWSAccessKeyId="),
            *(b"X-Goog-Signature=", b"X-Goog-Credential=", b"&Signature=", b"?Signature=", b"&sig=", b"?sig="),
            *(b"access_token=", b"private_token="),
        ),
    ),
    _token(b"AKIA", 16, rb"[A-Z0-9]"),
    _token(b"ASIA", 16, rb"[A-Z0-9]"),
    *(_token(head, 30, rb"[A-Za-z0-9]") for head in (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_")),
    _token(b"github_pat_", 30),
    _token(b"glpat-", 16),
    *(_token(head, 10) for head in (b"xoxb-", b"xoxp-", b"xoxa-", b"xoxr-", b"xoxs-", b"xoxe-", b"xapp-")),
    _token(b"hf_", 30, rb"[A-Za-z0-9]"),
    _token(b"sk-", 20, condition=_DIGIT),
    _token(b"sk_live_", 16),
    _token(b"npm_", 30, rb"[A-Za-z0-9]"),
    _token(b"pypi-", 50),
    _token(b"AIza", 35),
    _token(b"ya29.", 20),
    _token(b"dckr_pat_", 20),
    _token(b"hvs.", 20),
    _long(b"AccountKey=", b"", rb"[A-Za-z0-9+/=]", 20),
    Shape(  # a JSON web token
        b"eyJ",
        rb"(?P<hidden>[\w-]{8,%d}+\.[\w-]{8,%d}+(?:\.[\w.-]{0,%d})?)" % (_TOKEN, _LONG, _TOKEN),
        rb"[\w-]{0,%d}+(?:\.[\w.-]{0,%d})?" % (_TOKEN, _LONG),
        most=_LONG,
        apart=True,
    ),
    Shape(b"hooks.slack.com/services/", rb"(?P<hidden>[A-Za-z0-9/_-]{20,100})", rb"[A-Za-z0-9/_-]{0,99}", 100),
    _long(b"Bearer ", _DIGIT, rb"[A-Za-z0-9._~+/=-]", 16),
    Shape(
        b"uthorization",
        rb"[\"']?[:=] ?[\"']?(?:Basic|Bearer|Token|token|AWS) (?P<hidden>[^\s\"'\\]{6,%d})" % _LONG,
        rb"[\"']?(?:[:=] ?[\"']?(?:[A-Za-z]{0,6}(?: [^\s\"'\\]{0,%d})?)?)?" % (_LONG - 1),
        _LONG,
    ),
    Shape(
        b"-----BEGIN ",
        rb"(?P<hidden>[A-Z ]{0,20}PRIVATE KEY-----(?:\s{0,4}(?:Proc-Type|DEK-Info): [A-Za-z0-9,-]{1,64})*"
        + _KEY_LINES
        + rb"(?:-----END [A-Z ]{0,20}PRIVATE KEY-----)?)",
        rb"(?:[A-Z ]{0,31}-{0,4}|[A-Z ]{0,20}PRIVATE KEY-----(?:\s{0,4}[A-Z][A-Za-z-]{0,8}: [A-Za-z0-9,-]{0,64})*"
        + _KEY_LINES
        + rb"(?:-{1,5}|-----E[A-Z ]{0,35}-{0,4})?)",
        2 * _LONGEST_KEY,
    ),
)
