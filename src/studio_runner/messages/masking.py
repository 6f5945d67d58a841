"""Hiding secrets in text, in JSON values and in streams of bytes.

One automaton finds the beginnings of everything that may be a secret: of all forms of those that are known
(`forms.py`) and of credentials of known looks (`shapes.py`). What begins like one is looked at closely. Text that
begins like a known secret and then differs is hidden as far as it is the same, from 16 bytes on.
"""

import threading
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from studio_runner.messages.forms import forms_of
from studio_runner.messages.secrets import HIDDEN, mask_urls, without_secrets
from studio_runner.messages.shapes import SHAPES, Found, Shape

if TYPE_CHECKING:
    from ahocorasick_rs import BytesAhoCorasick

Spans = Sequence[tuple[int, int]]
"""Where each begins and ends, in order; they neither overlap nor touch."""

HEAD = 16
"""Bytes of a form that the automaton looks for."""
SHOWN = 3
"""Bytes of a secret that a stream may have shown before it could know."""
_CONTEXT = SHOWN + 1
REMEMBERED = 32
"""Secrets that are hidden on; each makes what is to be found larger."""


class Masker:
    """Knows `secrets` and hides them, and whatever looks like a credential. Immutable; costs nothing until used."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self.secrets = frozenset(secrets)

    def text(self, text: str) -> str:
        """The text with every secret as `***`, also what stands before the `@` and after the `?` of addresses."""
        data = text.encode(errors="surrogatepass")
        if spans := self.spans(data):
            text = b"***".join(_between(data, spans)).decode(errors="replace")
        return mask_urls(text)

    def value(self, value: Any) -> Any:
        """A copy of a JSON value without its secrets, in names or in values; text under secret names is hidden."""
        return without_secrets(value, self._leaf)

    def _leaf(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        return HIDDEN if isinstance(value, int | float) and str(value) in self.secrets else value

    def blank(self, data: bytes) -> bytes:
        """As many bytes, secrets overwritten with `*`."""
        return blanked(data, self.spans(data))

    def spans(self, data: bytes) -> Spans:
        """Where the secrets are."""
        return self.look(data, ended=True)[0]

    def stream(self) -> "Stream":
        return Stream(self)

    def look(self, data: bytes, passed: int = 0, *, ended: bool = False) -> tuple[Spans, int]:
        """Where the secrets are, and where that begins which more bytes may make one or a longer one, unless there
        are none to come; what is behind that is to be looked at again. What ends in the first `passed` bytes was
        looked at before."""
        found: list[tuple[int, int]] = []
        covered, undecided = 0, len(data) if ended else len(data) - self._begun(data)
        for which, start, end in self._automaton.find_matches_as_indexes(data, overlapping=True):
            if end <= passed or start >= undecided:
                continue
            for target in self._targets[which]:
                shaped = isinstance(target, Shape)
                if shaped and start < covered:  # it is a part of another
                    continue
                begin, stop, is_open = target.look(data, start)
                if stop > begin:
                    found.append((begin, stop))
                    covered = max(covered, stop) if shaped else covered
                if is_open and not ended:
                    undecided = min(undecided, start)
        return merged(found) if found else (), undecided

    def _begun(self, data: bytes) -> int:
        """How many of the last bytes are the beginning of what the automaton looks for."""
        if data[-1:] not in self._last:
            return 0
        most = min(len(data), self._longest - 1)
        return next((length for length in range(most, SHOWN, -1) if data[-length:] in self._beginnings), 0)

    @cached_property
    def _heads(self) -> dict[bytes, list["Shape | _Alike"]]:
        """What the automaton looks for, and what may begin so."""
        heads: defaultdict[bytes, list[Shape | _Alike]] = defaultdict(list)
        for shape in SHAPES:
            heads[shape.head].append(shape)
        alike: defaultdict[bytes, list[bytes]] = defaultdict(list)
        for form in {form for secret in self.secrets for form in forms_of(secret)}:
            alike[form[:HEAD]].append(form)
        for head, forms in alike.items():
            heads[head].append(_Alike(forms))
        return dict(heads)

    @cached_property
    def _targets(self) -> list[list["Shape | _Alike"]]:
        return list(self._heads.values())

    @cached_property
    def _automaton(self) -> "BytesAhoCorasick":
        from ahocorasick_rs import BytesAhoCorasick  # noqa: PLC0415 - commands that show nothing do without

        return BytesAhoCorasick(self._heads)

    @cached_property
    def _beginnings(self) -> frozenset[bytes]:
        return frozenset(head[:length] for head in self._heads for length in range(SHOWN + 1, len(head)))

    @cached_property
    def _last(self) -> frozenset[bytes]:
        """The bytes in which beginnings end."""
        return frozenset(beginning[-1:] for beginning in self._beginnings)

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._heads))


class _Known:
    """A form of a known secret."""

    def __init__(self, form: bytes) -> None:
        self._form, self._rest = form, form[HEAD:]

    def look(self, data: bytes, start: int) -> Found:
        """Its first bytes are at `start`."""
        rest, end = self._rest, start + len(self._form)
        follows = data[end - len(rest) : end]
        if follows == rest:
            return Found(start, end, is_open=False)
        if rest.startswith(follows):
            return Found(start, len(data), is_open=True)
        same = next(index for index, (one, other) in enumerate(zip(follows, rest, strict=False)) if one != other)
        return Found(start, _whole_character(data, end - len(rest) + same), is_open=False)


class _Alike:
    """Forms with the same first bytes: thousands of secrets may have them, and a script may print these first bytes
    again and again."""

    def __init__(self, forms: Iterable[bytes]) -> None:
        self._forms = sorted(forms)
        self._known = [_Known(form) for form in self._forms]
        self._longest = max(map(len, self._forms))

    def look(self, data: bytes, start: int) -> Found:
        """Their first bytes are at `start`. No other form has more in common with what is there than those before
        and after which it would be sorted."""
        place = bisect_right(self._forms, data[start : start + self._longest])
        near = [known.look(data, start) for known in self._known[max(0, place - 1) : place + 1]]
        return Found(start, max(found.end for found in near), is_open=any(found.is_open for found in near))


class Stream:
    """Masks bytes that come in pieces: wherever they cut a secret, no more than its first three bytes are seen.

    What may be the beginning of a secret is held back until it is known, all else is passed on at once.
    """

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._data = b""
        """The last bytes that were passed on, then those that are held back."""
        self._passed = 0
        """How many of them were passed on."""
        self._hidden = 0
        """How far they are known to be secret."""

    def feed(self, data: bytes) -> bytes:
        """What can be passed on now, with secrets overwritten."""
        return blanked(*self.take(data))

    def finish(self) -> bytes:
        """The rest."""
        return blanked(*self.take_rest())

    def take(self, data: bytes) -> tuple[bytes, Spans]:
        """What can be passed on now, as it is, and where its secrets are."""
        whole = self._data + data if self._data else data
        spans, undecided = self._masker.look(whole, self._passed)
        return self._pass_on(whole, spans, max(undecided, self._passed))

    def take_rest(self) -> tuple[bytes, Spans]:
        spans, _ = self._masker.look(self._data, self._passed, ended=True)
        return self._pass_on(self._data, spans, len(self._data))

    def _pass_on(self, whole: bytes, spans: Spans, until: int) -> tuple[bytes, Spans]:
        start, hidden = self._passed, self._hidden
        if hidden > start:
            spans = merged([*spans, (start, hidden)])
        kept = max(0, until - _CONTEXT)
        self._data, self._passed = whole[kept:], until - kept
        cut = next((end for begin, end in reversed(spans) if begin < until < end), 0)
        self._hidden = max(0, max(cut, hidden) - kept)
        passed = whole if start == 0 and until == len(whole) else whole[start:until]
        return passed, within(spans, start, until) if spans else ()


class Secrets:
    """The secrets that are known at present, as often as somebody knows them.

    Some that nobody knows any more are hidden on: somebody may still speak of them, and the next message will most
    likely bring the same ones.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, int] = {}
        self._forgotten: deque[str] = deque(maxlen=REMEMBERED)
        self._masker = Masker()

    @property
    def masker(self) -> Masker:
        return self._masker

    def learn(self, values: Iterable[str]) -> None:
        """They are known from now on."""
        self._count(frozenset(values), 1)

    @contextmanager
    def known(self, values: Iterable[str]) -> Iterator[None]:
        """They are known inside the context."""
        values = frozenset(values)
        self._count(values, 1)
        try:
            yield
        finally:
            self._count(values, -1)

    def _count(self, values: Iterable[str], by: int) -> None:
        with self._lock:
            for value in values:
                self._known[value] = self._known.get(value, 0) + by
                if not self._known[value]:
                    del self._known[value]
                    self._forgotten.append(value)
            if not self._known.keys() <= self._masker.secrets:
                self._masker = Masker({*self._known, *self._forgotten})


def merged(spans: Iterable[tuple[int, int]]) -> Spans:
    """In order, and those that overlap or touch as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def within(spans: Spans, start: int, end: int) -> Spans:
    """What of them lies between `start` and `end`, counted from `start`."""
    return [
        (max(begin, start) - start, min(stop, end) - start) for begin, stop in spans if begin < end and stop > start
    ]


def blanked(data: bytes, spans: Spans) -> bytes:
    """As many bytes, those of the spans overwritten with `*`."""
    if not spans:
        return data
    covered = bytearray(data)
    for start, end in spans:
        covered[start:end] = b"*" * (end - start)
    return bytes(covered)


def _between(data: bytes, spans: Spans) -> list[bytes]:
    starts, ends = (0, *(end for _, end in spans)), (*(start for start, _ in spans), len(data))
    return [data[start:end] for start, end in zip(starts, ends, strict=True)]


def _whole_character(data: bytes, end: int) -> int:
    """The end of the UTF-8 character that `end` may be in."""
    while end < len(data) and data[end] & 0xC0 == 0x80:
        end += 1
    return end
