"""The metadata document of an attempt: what the script says of itself in its output, and what the runner adds
(INTERFACE section 9).

A line of output that is one JSON object is merged into the document (RFC 7386), one that is a JSON array is applied
as a patch (RFC 6902). `/studioml` belongs to the runner: scripts may add to it by patch, nothing else. The document
is bounded: what no longer fits is left out, and the document says how much.
"""

import json
import math
import re
import time
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from studio_runner.messages.jsontext import too_deep
from studio_runner.messages.patches import Patcher, PatchRefusedError, merge

OURS = "studioml"
"""The member of the document that belongs to the runner."""

BUDGET = 1 << 20
"""Bytes of JSON that directives, and apart from them the log, may fill."""

# In the order of ASCII, so that names sort by time.
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BASE62_DIGITS = 6  # enough until the year 3769
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]")
_DIRECTIVE_ENDS = {b"{": b"}", b"[": b"]"}
_LOG_ENTRY = 60
"""Bytes of an entry of the log besides its message."""
_BILLION = 1_000_000_000


class Document:
    """The merged document of one attempt. Not for use from several threads at a time."""

    def __init__(self, budget: int = BUDGET) -> None:
        self._budget = budget
        # What scripts add to the log by patch is in the document; the runner's entries are apart and come after.
        self._document: dict[str, Any] = {OURS: {"log": []}}
        self._patcher = Patcher(self._document, OURS)
        self._facts: dict[str, Any] = {}
        self._spent = 0  # the document is at most this large
        self._full = False
        self._log: list[dict[str, str]] = []
        self._log_spent = 0
        self.applied = 0
        """Directives that are in the document."""
        self.refused = 0
        """Directives that were skipped because they are no valid patch or touch `/studioml`."""
        self.left_out = 0
        """Directives that no longer fitted."""
        self.log_left_out = 0
        """Lines of the log that no longer fitted."""

    def feed(self, line: bytes) -> bool:
        """Take one line of output that might be a directive. False for what is none, which does nothing; what no
        longer fits is not looked at."""
        return self._take(line)

    def feed_or_log(self, line: bytes, when: int) -> bool:
        """Take one line of output, as a directive or else as an entry of the log (`schema-logs`)."""
        taken = self._take(line)
        if not taken:
            self.log(line, when)
        return taken

    def log(self, line: bytes, when: int) -> None:
        """Append a line of output to `/studioml/log`; `when` is nanoseconds since 1970."""
        cost = len(line) + _LOG_ENTRY
        if self._log_spent + cost > self._budget:
            self.log_left_out += 1
            return
        self._log_spent += cost
        self._log.append({"ts": iso_time(when), "msg": line.decode(errors="replace").rstrip("\r\n")})

    def add_studioml(self, facts: Mapping[str, Any]) -> None:
        """Merge what the runner knows into `/studioml`: artifacts, experiment, host, load_time, start_time,
        stop_time, pipdeptree. No script can change it."""
        merge(self._facts, facts)
        merge(self._document[OURS], deepcopy(dict(facts)))  # patches change what is there
        self._spent += len(json.dumps(facts))

    def to_json(self) -> bytes:
        """The document as it is now."""
        ours = self._document[OURS]
        merge(ours, deepcopy(self._facts))
        log = ours.get("log")
        shown = {**ours, "log": [*(log if isinstance(log, list) else ()), *self._log]}
        if self.refused or self.left_out or self.log_left_out:
            shown["scrape"] = self._tally()
        return json.dumps({**self._document, OURS: shown}).encode()

    def _tally(self) -> dict[str, Any]:
        tally: dict[str, Any] = {
            "applied": self.applied,
            "refused": self.refused,
            "left_out": self.left_out,
            "log_left_out": self.log_left_out,
        }
        if self.left_out or self.log_left_out:
            tally["note"] = f"this document holds at most {self._budget} bytes of directives and as many of log"
        return tally

    def _take(self, line: bytes) -> bool:
        """True when the line is a directive, whatever becomes of it."""
        text = line.strip()
        if not text or _DIRECTIVE_ENDS.get(text[:1]) != text[-1:]:
            return False
        if self._full or len(text) > self._budget:  # not worth reading: it will not fit
            self.left_out += 1
            return True
        directive = _read(text)
        if directive is None:
            return False
        if self._has_room(len(text)):
            self._apply(directive, len(text))
        else:
            self.left_out += 1
        return True

    def _has_room(self, size: int) -> bool:
        """Every directive is charged by its length. Newer values replace older ones, so the sum is an upper bound,
        and the document is measured when the sum reaches the budget."""
        if self._spent + size <= self._budget:
            return True
        self._spent = len(json.dumps(self._document))
        # Close to the brim every further line would have to measure again.
        self._full = self._spent > self._budget * 0.9
        return not self._full and self._spent + size <= self._budget

    def _apply(self, directive: Any, size: int) -> None:
        if isinstance(directive, list):
            room = self._budget - self._spent - size
            try:
                self._spent += self._patcher.apply(directive, room)
            except PatchRefusedError:
                self.refused += 1
                return
        elif OURS in directive:
            self.refused += 1
            return
        else:
            merge(self._document, directive)
        self._spent += size
        self.applied += 1


def _read(text: bytes) -> Any:
    """The object or array that `text` spells, None when it is not JSON."""
    try:
        value = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        return None
    return None if too_deep(text, value) else value


def _finite(spelled: str) -> float:
    """Refuses NaN and Infinity, which are not JSON, and 1e999, which would be written again as Infinity."""
    value = float(spelled)
    if not math.isfinite(value):
        raise ValueError(f"{spelled} is no finite number")
    return value


def iso_time(when: int) -> str:
    """Nanoseconds since 1970 as ISO 8601 in UTC, all of them: `2026-01-31T12:00:00.123456789Z`."""
    seconds, nanoseconds = divmod(when, _BILLION)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09d}Z"


def document_name(host: str, began: float) -> str:
    """The document's file name, `scrape-host-<host>-<base62 of the Unix time>.json`; names sort by time."""
    left, digits = int(began), ""
    while left:
        left, digit = divmod(left, len(_BASE62))
        digits = _BASE62[digit] + digits
    return f"scrape-host-{_NOT_IN_NAMES.sub('_', host)}-{digits.rjust(_BASE62_DIGITS, '0')}.json"
