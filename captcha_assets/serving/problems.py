"""Errors of the service as `application/problem+json` (RFC 9457), without a path, a trace or a secret."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"

#: After an answer to a request whose body was not read: the connection is closed.
CLOSE = {"Connection": "close"}


class ProblemDetails(BaseModel):
    """A problem as RFC 9457 describes it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    reason: str | None = None
    """Machine-readable; of an image that cannot be used, as in `rejected_images`."""
    image: int | None = None
    """Which image of the request, from 0."""


class ProblemError(HTTPException):
    """A request that gets no answer.

    Args:
        status: of the response.
        detail: what is wrong and what to do, for a person.
        headers: of the response.
        more: further members of the problem, `reason` or `image`.
    """

    def __init__(
        self, status: int, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.more = more

    def response(self) -> Response:
        """Return the problem as a response."""
        return _response(self.status_code, str(self.detail), self.headers, **self.more)


def _response(status: int, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    problem = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    given = {name: value for name, value in more.items() if value is not None}
    return Response(json.dumps(problem | given), status, headers, MEDIA_TYPE)


def _of_http(_request: Request, error: Exception) -> Response:
    if isinstance(error, ProblemError):
        return error.response()
    assert isinstance(error, StarletteHTTPException)
    return _response(error.status_code, str(error.detail), error.headers)


def _of_validation(_request: Request, error: Exception) -> Response:
    """Say the first thing that is wrong with a body or a parameter."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    location = ".".join(str(part) for part in first["loc"] if part != "body")
    return _response(422, f"{location}: {first['msg']}" if location else str(first["msg"]))


def _of_defect(_request: Request, _error: Exception) -> Response:
    return _response(500, "the service failed at this request; its log says why")


def _of_disconnect(_request: Request, _error: Exception) -> Response:
    """Return the answer to a client that closed the connection before its request was complete."""
    return _response(400, "the request ends early")


def answer_with_problems(app: FastAPI) -> None:
    """Have every error of an application answered with a problem."""
    app.add_exception_handler(StarletteHTTPException, _of_http)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(ClientDisconnect, _of_disconnect)
    app.add_exception_handler(Exception, _of_defect)


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the problems that a route may answer with, as its description in OpenAPI."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}
