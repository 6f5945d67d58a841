"""The JSON Schema of the request message, made from the models that read it."""

import json
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from studio_runner.messages.request import RequestMessage


class _Generator(GenerateJsonSchema):
    """Without titles that only repeat the names of fields."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  pydantic's signature
        return False


def request_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a request in clear text. `parse_request` refuses whatever the schema refuses, and
    some more: rules across fields and the exact spellings of quantities are not expressed in it."""
    schema = RequestMessage.model_json_schema(schema_generator=_Generator)
    return {"$schema": _Generator.schema_dialect, **schema, "title": "StudioML request"}


def schema_text() -> str:
    """The schema as it stands in `docs/reference/request.schema.json`."""
    return json.dumps(request_schema(), indent=2, sort_keys=True) + "\n"
