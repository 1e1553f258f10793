"""Every error as problem+json (RFC 9457) with a stable `code`; nothing that the caller sent is repeated in it."""

import logging
import random
from collections.abc import Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm.exc import StaleDataError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.db.guard import DatabaseAway
from app.errors import IntentError, Malformed, Unavailable
from app.logs import trace

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
MOST_FIELDS = 20
RETRY_AFTER: dict[str, Any] = {
    "Retry-After": {"description": "seconds", "required": True, "schema": {"type": "integer", "minimum": 1}}
}
# What any route answers that takes a key.
DOOR = (401, 403, 429)
HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}},
    429: RETRY_AFTER,
    503: RETRY_AFTER,
}


class Problem(BaseModel):
    """An error as RFC 9457 writes it. `code` never changes; further members depend on it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["about:blank"])
    title: str
    status: int
    detail: str
    code: str = Field(examples=["unknown_label"])


def problem(error: IntentError) -> dict[str, Any]:
    """The problem document of an error."""
    return {
        "type": "about:blank",
        "title": error.title,
        "status": error.status_code,
        "detail": str(error),
        "code": error.code,
        **error.details,
    }


def respond(error: IntentError) -> JSONResponse:
    """The response of an error."""
    headers = error.headers or ({"Retry-After": str(random.randint(1, 5))} if error.status_code == 503 else None)
    return JSONResponse(problem(error), status_code=error.status_code, media_type=MEDIA_TYPE, headers=headers)


def malformed(error: RequestValidationError | ValidationError) -> Malformed:
    """What pydantic found wrong, by field. The input is left out: it may be a person's text."""
    fields = [
        {"field": ".".join(str(part) for part in found["loc"])[:200], "message": found["msg"][:300]}
        for found in error.errors()[:MOST_FIELDS]
    ]
    first = fields[0] if fields else {"field": "body", "message": "invalid"}
    return Malformed(f"{first['field']}: {first['message']}", errors=fields)


def from_database(error: Exception) -> Unavailable:
    """The database does not answer, or refused: the caller may try again, and hears no more than that."""
    level = logging.DEBUG if isinstance(error, DatabaseAway) else logging.ERROR
    logger.log(level, "database: %s: %s", type(error).__name__, type(getattr(error, "orig", None)).__name__)
    return Unavailable("the database does not answer right now; try again")


# What the database, or the way to it, raises: whoever meets one may try again.
OF_DATABASE: Final = (DatabaseAway, DBAPIError, PoolTimeout, StaleDataError)


def rendered(error: Exception) -> JSONResponse:
    """The response of whatever went wrong behind a route; what nobody foresaw is logged, without what it says."""
    if isinstance(error, IntentError):
        return respond(error)
    if isinstance(error, OF_DATABASE):
        if isinstance(error, DBAPIError) and not isinstance(error, OperationalError):
            logger.error("statement refused: %s", trace(error))
        return respond(from_database(error))
    logger.error("unexpected %s", trace(error))
    return respond(IntentError("something went wrong here; it has been logged"))


class _Http(IntentError):
    """The request was refused."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status_code = status  # type: ignore[misc]
        self.code = {404: "not_found", 405: "method_not_allowed"}.get(status, "refused")  # type: ignore[misc]


def install(app: FastAPI, routes: Sequence[APIRoute]) -> None:
    """Render every exception of this application, which has these routes, as a problem."""

    @app.exception_handler(IntentError)
    async def _intent_error(_: Request, error: IntentError) -> JSONResponse:
        return respond(error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return respond(malformed(error))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        # FastAPI wraps what reading the body raised; the caller wants the reason.
        if isinstance(error.__cause__, IntentError):
            return respond(error.__cause__)
        response = respond(_Http(error.status_code, str(error.detail)))
        response.headers.update(error.headers or {})
        if error.status_code == 405:
            response.headers["Allow"] = ", ".join(sorted(_methods_here(request, routes)))
        return response

    async def _database(_: Request, error: Exception) -> JSONResponse:
        return rendered(error)

    for kind in OF_DATABASE:
        app.add_exception_handler(kind, _database)


def _methods_here(request: Request, routes: Sequence[APIRoute]) -> set[str]:
    """The methods of this path: each has a route of its own, and the first that fits would name but its own."""
    found = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    # `/models/active` is not `/models/{version}`.
    fewest = min((len(route.param_convertors) for route in found), default=0)
    return {method for route in found if len(route.param_convertors) == fewest for method in route.methods or ()}


class LastResort:
    """Answers 500 to what nobody foresaw, and logs where it happened but not what it says.

    The message of an error may quote a question, and a database's quotes the row. Raised further, the server would log
    it whole.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            if scope["type"] != "http":
                raise
            response = rendered(error)
            # An answer that has begun cannot become another one: the server then breaks the connection.
            if not begun:
                await response(scope, receive, send)


def responses(*statuses: int, door: bool = True) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route, for the OpenAPI document; `door`: also those to whoever may not enter."""
    described = {
        400: "Not JSON",
        401: "No key, or none that counts",
        403: "Not with this key",
        404: "No such thing",
        409: "Not in this state",
        413: "Body too large",
        422: "Malformed or refused",
        429: "Too often",
        503: "Try again later",
    }
    return {
        status: {
            "description": described[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        | ({"headers": HEADERS[status]} if status in HEADERS else {})
        for status in sorted({*statuses, *(DOOR if door else ())})
    }
