"""The API's addresses, once: routes are made of them, and so is their description (OpenAPI 3.1)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from studio_runner import __version__
from studio_runner.client.stop import Stopped
from studio_runner.web.catalogue import ExperimentLine
from studio_runner.web.overview import QueueView, RunnerView


@dataclass(frozen=True)
class Parameter:
    """A query parameter, or a header with `where` set so."""

    name: str
    about: str
    schema: Mapping[str, Any]
    where: str = "query"


@dataclass(frozen=True)
class Operation:
    """One address with its method of `api.Api`. `answers`: status to what it means and the schema of its JSON, or
    the media type where it is none."""

    path: str
    handler: str
    about: str
    answers: Mapping[int, tuple[str, "Mapping[str, Any] | str"]]
    parameters: Sequence[Parameter] = ()
    method: str = "GET"


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(of: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _named(kind: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


TEXT: Mapping[str, Any] = {"type": "string"}
SWITCH: Mapping[str, Any] = {"type": "boolean"}
NUMBER: Mapping[str, Any] = {"type": "integer", "minimum": 0}
KINDS: tuple[type, ...] = (RunnerView, QueueView, ExperimentLine)
PROBLEM: Mapping[str, Any] = {"$ref": "#/components/schemas/Problem"}

_READY = _object(ready=SWITCH, reasons=_list(TEXT))
_STOPPED = _object(key=TEXT, outcome={"type": "string", "enum": [outcome.value for outcome in Stopped]})
_DETAILS = {"allOf": [_named(ExperimentLine), _object(record={"type": "object"})]}
_PAGE = _object(
    experiments=_list(_named(ExperimentLine)), total=NUMBER, next={"anyOf": [{"type": "string"}, {"type": "null"}]}
)
_ABSENT: Mapping[int, tuple[str, Mapping[str, Any]]] = {404: ("There is no such experiment.", PROBLEM)}
_LIST_PARAMETERS = (
    *(
        Parameter(name, f"Only experiments with this {name}.", TEXT)
        for name in ("status", "queue", "project", "reason")
    ),
    Parameter("limit", "Most experiments in the answer.", {**NUMBER, "default": 50, "maximum": 500}),
    Parameter("after", "`next` of the page before.", TEXT),
)
_OUTPUT_PARAMETERS = (
    Parameter("tail", "Only the last so many bytes of what there is.", NUMBER),
    Parameter("follow", "Go on until the attempt that runs here is over.", SWITCH),
)
_LAST = Parameter("Last-Event-ID", "Begin after this event.", TEXT, where="header")

OPERATIONS: tuple[Operation, ...] = (
    Operation("/healthz", "healthz", "Whether the runner is alive.", {200: ("It is.", _object(status=TEXT))}),
    Operation(
        "/readyz",
        "readyz",
        "Whether the runner can take work.",
        {200: ("It can.", _READY), 503: ("It cannot; `reasons` say why.", _READY)},
    ),
    Operation("/metrics", "metrics", "Figures for Prometheus.", {200: ("The figures.", "text/plain")}),
    Operation(
        "/api/v1/runner",
        "runner",
        "The runner, its GPUs, and what runs on it.",
        {200: ("Now.", _named(RunnerView))},
    ),
    Operation(
        "/api/v1/queues",
        "queues",
        "The queues and how many messages each has.",
        {200: ("Now.", _object(queues=_list(_named(QueueView))))},
    ),
    Operation(
        "/api/v1/experiments",
        "experiments",
        "Experiments of every runner on this store, newest first; the 5000 that changed last.",
        {200: ("A page of them.", _PAGE), 400: ("A parameter cannot be used.", PROBLEM)},
        _LIST_PARAMETERS,
    ),
    Operation(
        "/api/v1/experiments/{key}/output",
        "output",
        "What an experiment printed: live where it runs here, else as it is stored.",
        {
            200: ("The output.", "text/plain"),
            404: ("There is no such experiment, or no output yet.", PROBLEM),
            503: ("Too many stored outputs are being read.", PROBLEM),
            507: ("What is stored is too much to be unpacked here.", PROBLEM),
        },
        _OUTPUT_PARAMETERS,
    ),
    Operation(
        "/api/v1/experiments/{key}/stop",
        "stop",
        "Stop an experiment, wherever it is. Needs the token.",
        {
            200: ("It was taken off its queue (`withdrawn`), or is `over`.", _STOPPED),
            202: ("Its runner was asked to stop it.", _STOPPED),
            **_ABSENT,
        },
        method="POST",
    ),
    Operation(
        "/api/v1/experiments/{key}",
        "experiment",
        "Everything about one experiment; `record` is its record without credentials.",
        {200: ("The experiment.", _DETAILS), **_ABSENT},
    ),
    Operation(
        "/api/v1/events",
        "events",
        "Server-sent events: `started`, `stage`, `checkpoint`, `ended`, and `reset` when some were missed.",
        {200: ("The events, as they come.", "text/event-stream")},
        (_LAST,),
    ),
    Operation(
        "/api/v1/runner/drain",
        "drain",
        "Take nothing new, finish what runs, then end. Needs the token.",
        {202: ("The runner drains.", _object(draining=SWITCH))},
        method="POST",
    ),
)


@cache
def document() -> str:
    """The whole description, as JSON."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    schemas = {"Problem": _object(error=TEXT, hint={"anyOf": [{"type": "string"}, {"type": "null"}]}), **_schemas()}
    whole = {
        "openapi": "3.1.0",
        "info": {"title": "studio-runner", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }
    return json.dumps(whole, indent=1) + "\n"


def _operation(operation: Operation) -> dict[str, Any]:
    answers = dict(operation.answers)
    if operation.method == "POST":
        answers[401] = ("The token is missing or wrong.", PROBLEM)
        answers[403] = ("This runner has no token, so it takes no commands.", PROBLEM)
    described: dict[str, Any] = {
        "operationId": operation.handler,
        "summary": operation.about,
        "parameters": [*_path_parameters(operation.path), *map(_parameter, operation.parameters)],
        "responses": {str(status): _answer(*answer) for status, answer in answers.items()},
    }
    if operation.method == "POST":
        described["security"] = [{"token": []}]
    return described


def _path_parameters(path: str) -> list[dict[str, Any]]:
    if "{key}" not in path:
        return []
    return [{"name": "key", "in": "path", "required": True, "description": "The experiment's key.", "schema": TEXT}]


def _parameter(parameter: Parameter) -> dict[str, Any]:
    about = {"name": parameter.name, "in": parameter.where, "description": parameter.about}
    return {**about, "schema": parameter.schema}


def _answer(about: str, content: "Mapping[str, Any] | str") -> dict[str, Any]:
    if isinstance(content, str):
        return {"description": about, "content": {content: {"schema": TEXT}}}
    return {"description": about, "content": {"application/json": {"schema": content}}}


def _schemas() -> dict[str, Any]:
    """Of the dataclasses that answers are made of, and of what is in them."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        schema = TypeAdapter(kind).json_schema(ref_template="#/components/schemas/{model}")
        found.update(schema.pop("$defs", {}))
        found[kind.__name__] = schema
    return found
