"""The JSON Schema of the request message, made from the models that read it."""

from typing import Any

from studio_runner.messages.request import RequestMessage

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def request_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a request in clear text. `parse_request` refuses whatever the schema refuses, and
    some more: rules across fields and the exact spellings of quantities are not expressed in it."""
    schema = RequestMessage.model_json_schema(by_alias=True, mode="validation")
    return {"$schema": DIALECT, **schema, "title": "StudioML request"}
