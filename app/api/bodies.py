"""Read bodies from outside: bounded in size and depth, JSON to the letter, only strings that a database can hold."""

import asyncio
import json
import math
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.access import needed
from app.api.problems import respond
from app.errors import BodyTooLarge, Malformed, MalformedBody
from app.intent.text import sanitise

LARGEST_INTEGER = 2**63 - 1
PARSED_AT_ONCE = 1 << 16  # bytes; more would make everybody else wait, and are parsed in a thread
LONGEST_LENGTH = 18  # digits of a Content-Length

# How JSON writes NUL and the halves of characters: in a body without them every string can be stored as it is.
_UNSTORABLE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")


class BodyLimit:
    """Answers 413 as soon as a body is larger than allowed, chunked ones too, without keeping what came."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        error = BodyTooLarge(f"a body may have {self._max_bytes} bytes")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        # The length first, as below: a length of 5,000 digits is no number that Python reads.
        if not declared.isdigit() or len(declared) > LONGEST_LENGTH or int(declared) > self._max_bytes:
            await respond(error)(scope, receive, send)
            return
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise error
            return message

        await self._app(scope, bounded, send)


class StrictRequest(Request):
    """A request whose JSON is RFC 8259's: no NaN, no integers that no column holds, no bottomless nesting.

    NUL and lone surrogates in strings become U+FFFD here, at the edge: nothing behind it has to think of them. The
    application's `state.max_json_depth` bounds the nesting.
    """

    async def json(self) -> Any:
        """The parsed body.

        Raises:
            MalformedBody, Malformed: with the reason, never with the content.
        """
        if not hasattr(self, "_json"):
            body, depth = await self.body(), self.app.state.max_json_depth
            if len(body) > PARSED_AT_ONCE:
                self._json = await asyncio.to_thread(parse, body, max_depth=depth)
            else:
                self._json = parse(body, max_depth=depth)
        return self._json


class StrictRoute(APIRoute):
    """A route that reads its body strictly, and only for a caller who may send one."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        taken = needed(self)

        async def strict(request: Request) -> Response:
            # The framework reads and parses the body before it asks any dependency.
            if taken is not None:
                await taken(request)
            return await handler(StrictRequest(request.scope, request.receive))

        return strict


def parse(body: bytes, *, max_depth: int) -> Any:
    """Parse a JSON body.

    Raises:
        MalformedBody: not UTF-8, not JSON, or nested too deep.
        Malformed: a number that is out of range.
    """
    try:
        value = json.loads(
            body.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_int=_bounded_int,
            parse_float=_finite_float,
        )
    except UnicodeDecodeError as error:
        raise MalformedBody("the body is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise MalformedBody(f"the body is not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise MalformedBody(f"the body is nested deeper than {max_depth} levels") from error
    if _UNSTORABLE.search(body):
        return _clean(value, max_depth)
    _check_depth(value, max_depth)
    return value


def _check_depth(value: Any, depth_left: int) -> None:
    if not isinstance(value, (list, dict)):
        return
    if depth_left == 0:
        raise MalformedBody("the body is nested too deep")
    for inner in value.values() if isinstance(value, dict) else value:
        # Most values are no containers: asked here, they cost no call.
        if isinstance(inner, (list, dict)):
            _check_depth(inner, depth_left - 1)


def _clean(value: Any, depth_left: int) -> Any:
    if isinstance(value, str):
        return sanitise(value)
    if not isinstance(value, (list, dict)):
        return value
    if depth_left == 0:
        raise MalformedBody("the body is nested too deep")
    if isinstance(value, list):
        return [_clean(item, depth_left - 1) for item in value]
    return {sanitise(key): _clean(item, depth_left - 1) for key, item in value.items()}


def _refuse_constant(name: str) -> Any:
    raise MalformedBody(f"{name} is not JSON")


def _bounded_int(digits: str) -> int:
    # The length first: turning a million digits into a number takes the time of an attack.
    if len(digits) > 20 or not -LARGEST_INTEGER - 1 <= (value := int(digits)) <= LARGEST_INTEGER:
        raise Malformed("a whole number lies outside 64 bits")
    return value


def _finite_float(digits: str) -> float:
    value = float(digits) if len(digits) <= 400 else math.inf
    if not math.isfinite(value):
        raise Malformed("a number is out of range")
    return value
