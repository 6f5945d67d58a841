"""Metadata directives, line after line: the document stays JSON, within its budget, and what the runner says in it
stands; a patch does what the library it comes from says, or nothing."""

import copy
import json
from collections.abc import Iterable
from typing import Any

import jsonpatch

from studio_runner.messages.jsontext import MAX_DEPTH, nested_deeper
from studio_runner.messages.metadata import Document

MAX_LEN = 4096
BUDGET = 2048
WORDS = (
    *(b'{"op":"add","path":"/', b'{"op":"move","from":"/', b'{"op":"copy","from":"/', b'{"op":"remove","path":"/'),
    *(b'{"op":"test","path":"/', b'{"op":"replace","path":"/', b'","value":', b'","path":"/', b"/-", b"~1", b"~0"),
    *(b'"studioml"', b"/studioml/log/-", b"null", b"1e999", b"NaN", b"\n[", b"\n{", b"}]\n", b'"a":', b"[[[[[[["),
)
_FACTS = {"host": "h", "experiment": {"key": "k"}}


def seeds() -> Iterable[bytes]:
    yield b'{"a":{"b":1}}\n{"a":{"b":null,"c":[1,2]}}\nplain\n[{"op":"add","path":"/a/c/-","value":{"x":1}}]'
    yield b'{"a":[1,2,3]}\n[{"op":"move","from":"/a","path":"/b"},{"op":"copy","from":"/b/0","path":"/b/1"}]'
    yield b'{"a":{"~":1,"/":2}}\n[{"op":"test","path":"/a/~0","value":1},{"op":"remove","path":"/a/~1"}]'
    yield b'[{"op":"add","path":"/studioml/log/-","value":{"msg":"x"}}]\n{"studioml":{}}'
    yield b'{"a":1}\n[{"op":"replace","path":"/a","value":[]},{"op":"add","path":"/a/0","value":{}}]\n[]\n{}'


def check(data: bytes) -> None:
    document = Document(BUDGET)
    document.add_studioml(_FACTS)
    for line in data.split(b"\n"):
        before = copy.deepcopy(document._document)
        counts = document.applied, document.refused, document.left_out
        document.feed_or_log(line, 1_700_000_000_000_000_000)
        applied = document.applied - counts[0]
        assert applied + document.refused - counts[1] + document.left_out - counts[2] <= 1
        if applied:
            _compare(before, line, document._document)
        else:
            assert document._document == before
    text = document.to_json()
    whole = json.loads(text, parse_constant=lambda _: 1 / 0)
    assert whole["studioml"]["host"] == "h"
    assert whole["studioml"]["experiment"]["key"] == "k"
    assert not nested_deeper(whole, MAX_DEPTH + 5)
    assert len(text) <= 16 * BUDGET  # a byte of the log may become six


def _compare(before: dict[str, Any], line: bytes, after: dict[str, Any]) -> None:
    directive = json.loads(line.strip())
    if isinstance(directive, list):
        assert jsonpatch.apply_patch(before, directive) == after
