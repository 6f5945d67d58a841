"""Which address is answered by what, and the daemon together with its HTTP side."""

import logging
from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from studio_runner.client.opening import HereOpener
from studio_runner.config.reach import reach_of
from studio_runner.config.settings import Settings
from studio_runner.errors import StudioRunnerError
from studio_runner.messages.masking import Secrets
from studio_runner.queues.registry import opened_brokers
from studio_runner.reports.prometheus import Metrics
from studio_runner.runner.daemon import Tally, opened_daemon
from studio_runner.web.api import Api
from studio_runner.web.binding import Listening
from studio_runner.web.events import Events
from studio_runner.web.guard import Access, Guard
from studio_runner.web.openapi import OPERATIONS, document
from studio_runner.web.overview import Overview
from studio_runner.web.problems import problem
from studio_runner.web.server import serving

log = logging.getLogger(__name__)


def application(api: Api, access: Access) -> ASGIApp:
    """All addresses, guarded."""

    async def answer(request: Request, error: Exception) -> Response:
        return problem(request, error, api.masker)

    app = Starlette(
        routes=[*_described(api), *_pages(api)],
        exception_handlers=dict.fromkeys((StudioRunnerError, HTTPException, Exception), answer),
    )
    app.router.redirect_slashes = False  # it would decode whatever a query holds, and no address of ours needs it
    return Guard(app, access)


def _described(api: Api) -> Sequence[Route]:
    routes = [
        Route(
            operation.path.replace("{key}", "{key:path}"),
            getattr(api, operation.handler),
            methods=[operation.method],
        )
        for operation in OPERATIONS
    ]
    return [*routes, Route("/api/v1/openapi.json", _openapi)]


def _pages(api: Api) -> Sequence[Route]:
    return [
        Route("/", api.dashboard),
        Route("/experiments/{key:path}", api.experiment_page),
        Route("/static/{name}", api.asset),
    ]


async def _openapi(_request: Request) -> Response:
    return Response(document(), media_type="application/json")


async def serve(settings: Settings, secrets: Secrets, listening: Listening) -> Tally:
    """The daemon, as `runner.daemon.serve` has it, with its HTTP side in the same event loop."""
    events, metrics = Events(), Metrics()
    access = Access(listening.names, listening.remote or settings.http.private, settings.http.token)
    async with (
        opened_daemon(settings, secrets, [metrics, events]) as daemon,
        opened_brokers(settings.queues, settings.places.queue_root) as brokers,
    ):
        app = application(Api(Overview(daemon, brokers), events, metrics, HereOpener(reach_of(settings))), access)
        async with serving(app, listening.sock, events.close):
            log.info("dashboard, metrics and API at %s", listening.url)
            return await daemon.run()
