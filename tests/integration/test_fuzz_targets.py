"""The fuzzer's targets without the fuzzer: what it found before, its seeds, and inputs that hypothesis makes."""

import json
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.target import REGRESSIONS, TARGETS, load

FOUND = sorted(path for path in REGRESSIONS.glob("*/*") if path.is_file())

few = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(autouse=True)
def _unlogged():
    """Of names that are no text no report of a test could be sent from one process to another."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name[:24]}")
def test_what_was_found_once_is_not_found_again(path):
    load(path.parent.name).check(path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_of_a_target_find_nothing(name):
    target = load(name)
    for seed in target.seeds():
        target.check(seed)


@pytest.mark.parametrize("name", TARGETS)
@few
@given(data=st.data())
def test_what_is_made_of_a_targets_words_finds_nothing(name, data):
    target = load(name)
    piece = st.binary(max_size=12)
    pieces = data.draw(st.lists(st.sampled_from(target.WORDS) | piece if target.WORDS else piece, max_size=20))
    target.check(b"".join(pieces)[: target.MAX_LEN])


@pytest.mark.parametrize("name", ["documents", "reports"])
@few
@given(data=st.data())
def test_documents_with_anything_in_their_fields_find_nothing(name, data):
    target = load(name)
    names = [json.loads(word) for word in target.WORDS if word.startswith(b'"')]
    fields = st.dictionaries(st.sampled_from(names), json_values, max_size=8)
    document = {"key": "k", **data.draw(fields), "studio_runner": data.draw(fields | json_values)}
    target.check(json.dumps(document if name == "documents" else {"experiment": document}).encode())


@few
@given(st.lists(st.one_of(json_values, st.text(max_size=40)), max_size=6))
def test_metadata_of_any_values_finds_nothing(lines):
    load("metadata").check(b"\n".join(json.dumps(line).encode() for line in lines))
