"""The handlers: requests in, answers out."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from studio_runner.client.artifact_files import stored
from studio_runner.client.opening import Opener
from studio_runner.client.stop import Stopped, stop
from studio_runner.client.tail import View
from studio_runner.client.view import Details
from studio_runner.errors import InvalidMessageError, NotFoundError
from studio_runner.messages.masking import Masker
from studio_runner.reports.prometheus import CONTENT_TYPE, Metrics
from studio_runner.reports.records import Record
from studio_runner.web import output, pages
from studio_runner.web.answers import json_answer
from studio_runner.web.catalogue import ExperimentLine, line_of
from studio_runner.web.events import Events
from studio_runner.web.overview import Overview
from studio_runner.web.problems import BadRequestError

PAGE, LARGEST_PAGE = 50, 500
FILTERS = ("status", "queue", "project", "reason")
LARGEST_TAIL = 1 << 40


class Api:
    """One method per address; `opener` finds what is stored."""

    def __init__(self, overview: Overview, events: Events, metrics: Metrics, opener: Opener) -> None:
        self._overview, self._events, self._metrics, self._opener = overview, events, metrics, opener
        self._outputs = output.StoredOutputs(opener, overview.daemon.host.settings.experiments.output_limit)

    @property
    def masker(self) -> Masker:
        return self._overview.daemon.host.secrets.masker

    # -- for machines that look after machines ---------------------------------------------------------------------

    async def healthz(self, _request: Request) -> Response:
        return json_answer({"status": "ok"})

    async def readyz(self, _request: Request) -> Response:
        troubles = self.masker.value(await self._overview.troubles())
        return json_answer({"ready": not troubles, "reasons": troubles}, 503 if troubles else 200)

    async def metrics(self, _request: Request) -> Response:
        body = self._metrics.exposition(await self._overview.standing())
        return Response(body, headers={"Content-Type": CONTENT_TYPE})

    # -- for programs ----------------------------------------------------------------------------------------------

    async def runner(self, _request: Request) -> Response:
        return json_answer(asdict(self._overview.runner()))

    async def queues(self, _request: Request) -> Response:
        return json_answer({"queues": [asdict(queue) for queue in await self._overview.queues()]})

    async def experiments(self, request: Request) -> Response:
        wanted = {name: value for name in FILTERS if (value := request.query_params.get(name)) is not None}
        limit = _number(request, "limit", PAGE, LARGEST_PAGE)
        found = [line for line in await self._overview.experiments() if _matches(line, wanted)]
        begin = _after(found, request.query_params.get("after"))
        page = found[begin : begin + limit]
        more = page and begin + limit < len(found)
        return json_answer(
            {
                "experiments": [asdict(self._shown(line)) for line in page],
                "total": len(found),
                "next": page[-1].key if more else None,
            }
        )

    async def experiment(self, request: Request) -> Response:
        record = await self._overview.record(request.path_params["key"])
        document = (await self._details(record)).document()
        return json_answer({**asdict(self._shown(line_of(record))), "record": self.masker.value(document)})

    async def output(self, request: Request) -> Response:
        key = request.path_params["key"]
        tail = _number(request, "tail", None, LARGEST_TAIL)
        attempt = self._overview.attempt(key)
        if attempt and attempt.trial:
            directory, written = attempt.trial.directory / output.OUTPUT, attempt.trial.output
            view = View(self.masker, hidden=lambda: written.hidden)
            with suppress(NotFoundError):  # its directory goes just before the attempt is over
                if _wants(request, "follow"):
                    return output.live(directory, lambda: self._overview.is_over(attempt), tail, view)
                return output.whole(output.open_output(directory), tail, view)
        record = await self._overview.record(key)
        with ExitStack() as stack:
            file = stack.enter_context(await self._outputs.open(record))
            newest = await self._overview.record(key)  # it may tell of what came while the output was unpacked
            stack.pop_all()
            return output.whole(file, tail, View(self.masker).of_stored(newest))

    async def events(self, request: Request) -> Response:
        stream = self._events.stream(request.headers.get("last-event-id"))
        return StreamingResponse(stream, media_type="text/event-stream")

    async def stop(self, request: Request) -> Response:
        key = request.path_params["key"]
        if attempt := self._overview.attempt(key):
            self._overview.stop(attempt)
            return json_answer({"key": key, "outcome": Stopped.ASKED}, 202)
        record = await self._overview.record(key)
        outcome = await stop(record, self._overview.records, self._overview, self._opener)
        return json_answer({"key": key, "outcome": outcome}, 202 if outcome is Stopped.ASKED else 200)

    async def drain(self, _request: Request) -> Response:
        self._overview.daemon.drain()
        return json_answer({"draining": True}, 202)

    # -- for people ------------------------------------------------------------------------------------------------

    async def dashboard(self, _request: Request) -> Response:
        overview = self._overview
        ended = [self._shown(line) for line in pages.latest(await overview.experiments())]
        page = pages.dashboard(overview.runner(), await overview.queues(), ended)
        return HTMLResponse(page)

    async def experiment_page(self, request: Request) -> Response:
        record = await self._overview.record(request.path_params["key"])
        about = await self._details(record)
        fields = self.masker.value(about.fields(time.time()))
        running = next((one for one in self._overview.runner().running if one.key == record.key), None)
        return HTMLResponse(pages.experiment(self._shown(line_of(record)), fields, about.artifacts, running))

    async def asset(self, request: Request) -> Response:
        name = request.path_params["name"]
        kinds = {"app.js": "text/javascript", "style.css": "text/css"}
        if name not in kinds:
            raise NotFoundError(f"There is no file {name!r}")
        content, _ = pages.asset(name)
        # its address holds a digest of the content
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(content, media_type=kinds[name], headers=headers)

    def _shown(self, line: ExperimentLine) -> ExperimentLine:
        """A record may be its sender's, with whatever they wrote."""
        hide = self.masker.text
        return replace(line, script=hide(line.script), sentence=line.sentence and hide(line.sentence))

    async def _details(self, record: Record) -> Details:
        try:
            return Details(record, await stored(record, self._opener))
        except InvalidMessageError:  # of a sender who describes artifacts in ways that nobody understands
            return Details(record, [])


def _matches(line: ExperimentLine, wanted: Mapping[str, str]) -> bool:
    return all(getattr(line, name) == value for name, value in wanted.items())


def _after(lines: Sequence[ExperimentLine], key: str | None) -> int:
    if key is None:
        return 0
    for index, line in enumerate(lines):
        if line.key == key:
            return index + 1
    raise BadRequestError("`after` names no experiment of this list", hint="Use `next` of the page before.")


def _number(request: Request, name: str, otherwise: Any, most: int) -> Any:
    text = request.query_params.get(name)
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise BadRequestError(f"`{name}` is {text[:40]!r}, accepted is a whole number up to {most}")
    return min(int(text), most)


def _wants(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "false").lower()
    if text not in ("true", "false"):
        raise BadRequestError(f"`{name}` is {text[:40]!r}, accepted is true or false")
    return text == "true"
