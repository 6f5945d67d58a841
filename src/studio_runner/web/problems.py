"""Errors as HTTP answers: JSON with `error` and `hint` for programs, a page for people."""

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from studio_runner.client.artifact_files import TooLargeError
from studio_runner.errors import NotFoundError, StudioRunnerError, UsageError
from studio_runner.messages.masking import Masker
from studio_runner.web import pages
from studio_runner.web.answers import json_answer


class BadRequestError(UsageError):
    """A parameter of the request cannot be used."""


class ForbiddenError(StudioRunnerError):
    """Nobody may do this here."""


class UnknownCallerError(StudioRunnerError):
    """The request has no token, or the wrong one."""


class MisdirectedError(StudioRunnerError):
    """The request names a host that this is not."""


_STATUS: dict[type[StudioRunnerError], HTTPStatus] = {
    BadRequestError: HTTPStatus.BAD_REQUEST,
    UnknownCallerError: HTTPStatus.UNAUTHORIZED,
    ForbiddenError: HTTPStatus.FORBIDDEN,
    NotFoundError: HTTPStatus.NOT_FOUND,
    MisdirectedError: HTTPStatus.MISDIRECTED_REQUEST,
    TooLargeError: HTTPStatus.INSUFFICIENT_STORAGE,
}
"""Anything else is trouble with a queue or a store: 503."""

CHALLENGE = {"WWW-Authenticate": 'Basic realm="studio-runner: any name, the token as password", charset="UTF-8"'}


_UNKNOWING = Masker()


def problem(request: Request, error: Exception, masker: Masker = _UNKNOWING) -> Response:
    """The answer to a request that ended with one of the project's errors, or one of Starlette's."""
    if isinstance(error, HTTPException):
        return _answer(request, HTTPStatus(error.status_code), error.detail, None)
    if not isinstance(error, StudioRunnerError):
        return _answer(
            request, HTTPStatus.INTERNAL_SERVER_ERROR, "This is a bug in studio-runner", "Its log says more."
        )
    status = _STATUS.get(type(error), HTTPStatus.SERVICE_UNAVAILABLE)
    return _answer(request, status, masker.text(str(error)), error.hint and masker.text(error.hint))


def _answer(request: Request, status: HTTPStatus, error: str, hint: str | None) -> Response:
    headers = CHALLENGE if status is HTTPStatus.UNAUTHORIZED else None
    if "text/html" in request.headers.get("accept", ""):
        return Response(pages.failure(status.phrase, error, hint), status, headers, "text/html")
    return json_answer({"error": error, "hint": hint}, status, headers)
