import dataclasses
import json
from pathlib import Path

import pytest

from studio_runner.web.api import Api
from studio_runner.web.openapi import KINDS, OPERATIONS, document

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "openapi.json"


def references(value):
    if isinstance(value, dict):
        yield from ([value["$ref"]] if "$ref" in value else ())
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_the_reference_is_current():
    assert REFERENCE.read_text() == document(), "run `make docs`"


def test_every_reference_leads_somewhere():
    whole = json.loads(document())
    found = set(references(whole))
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in whole["components"]["schemas"]


def test_operations_are_told_apart_and_answered():
    assert len({(operation.method, operation.path) for operation in OPERATIONS}) == len(OPERATIONS)
    for operation in OPERATIONS:
        assert callable(getattr(Api, operation.handler))


def test_what_changes_something_needs_the_token():
    for path, methods in json.loads(document())["paths"].items():
        for method, described in methods.items():
            assert ("security" in described) == (method == "post"), path
            assert {"401", "403"} <= described["responses"].keys() or method == "get"


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_described_field_by_field(kind):
    schema = json.loads(document())["components"]["schemas"][kind.__name__]
    assert set(schema["required"]) == {field.name for field in dataclasses.fields(kind)}
