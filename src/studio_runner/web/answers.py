"""JSON answers from whatever a record may hold."""

import json
import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response


def json_answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """As ASCII, since halves of surrogate pairs have no UTF-8; numbers that JSON does not know are null."""
    body = json.dumps(_finite(content), allow_nan=False)
    return Response(body, status, headers, "application/json")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
