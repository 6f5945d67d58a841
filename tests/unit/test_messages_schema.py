from pathlib import Path

from studio_runner.messages.schema import request_schema, schema_text

COMMITTED = Path(__file__).parents[2] / "docs" / "reference" / "request.schema.json"


def test_the_schema_in_the_docs_is_current():
    assert COMMITTED.read_text() == schema_text(), "run `make docs`"


def test_the_schema_uses_the_names_of_the_wire():
    parts = request_schema()["$defs"]
    assert "gpuMem" in parts["Resources"]["properties"]
    assert "saveWorkspaceFrequency" in parts["Config"]["properties"]
    assert "label" not in parts["Artifact"]["properties"]
    assert all(part["additionalProperties"] for part in parts.values())
