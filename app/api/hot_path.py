"""Answer plain `POST /classify` requests ahead of the framework, with the same checks in the same order.

Routing, dependencies and the validation of the answer cost as much as all the rest of a request. What is not plain (an
unusual header, a body that does not fit) takes the ordinary way whole, so that every refusal is made in one place: the
tests compare both ways, answer by answer.
"""

import random
import time
from collections.abc import Callable
from typing import Final

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from pydantic import ConfigDict, TypeAdapter, ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import access, tracing
from app.api.classify import AnswerOut, ClassifyRequest, answer, require_visible, router
from app.api.dependencies import Services
from app.api.loopback import OwnMachineOnly
from app.api.metrics import Metrics
from app.api.observing import NOBODY_HEARD, Observed
from app.api.problems import rendered
from app.errors import CallerGone, IntentError
from app.serving.classifier import Asked

PATH: Final = "/classify"
# Of a larger body the framework's share is small, and the body's limit belongs to its layer.
MOST_BYTES: Final = 64 * 1024
JSON: Final = frozenset({b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"})
# A browser's origin, a body without a length, an id in a header: another part of the application knows about each.
UNUSUAL: Final = frozenset(
    {b"origin", b"expect", b"transfer-encoding", b"content-encoding", b"idempotency-key", b"upgrade"}
)
# What the strict parser replaces.
NUL: Final = b"\\u0000"
GONE: Final = "intentloop.gone"
"""The extension of the scope by which a connection says whether its caller has hung up."""


class _Plain(ClassifyRequest):
    """The same question, with nothing beside it."""

    model_config = ConfigDict(strict=True, extra="forbid")


_BODY: Final = TypeAdapter(_Plain)
_ANSWER: Final = AnswerOut.__pydantic_serializer__


class HotPath:
    """The outermost layer of all: what it does not answer it hands on as it came."""

    def __init__(self, app: ASGIApp, *, observed: Observed, own_machine: OwnMachineOnly, needs: access.Needs) -> None:
        """`observed`, `own_machine` and `needs` are what the ordinary way asks, too."""
        self._app = app
        self._observed = observed
        self._own_machine = own_machine
        self._needs = needs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        # Without its parts the application has started nothing yet.
        given: Services | None = getattr(scope["app"].state, "services", None)
        if given is None or not self._is_plain(scope, headers, given):
            await self._app(scope, receive, send)
            return
        await _Exchange(self, scope, headers, given).run(receive, send)

    def _is_plain(self, scope: Scope, headers: dict[bytes, bytes], given: Services) -> bool:
        length = headers.get(b"content-length", b"")
        return (
            headers.get(b"content-type") in JSON
            # Five digits at most: a longer one is no number that need be read.
            and length.isdigit()
            and len(length) <= 5
            and int(length) <= MOST_BYTES
            and len(headers) == len(scope["headers"])
            and UNUSUAL.isdisjoint(headers)
            and (given.keys.guarded or self._own_machine.refusal(scope) is None)
        )


class _Exchange:
    """One request and its answer."""

    __slots__ = ("_given", "_headers", "_path", "_scope", "_started")

    def __init__(self, path: HotPath, scope: Scope, headers: dict[bytes, bytes], given: Services) -> None:
        self._path = path
        self._scope = scope
        self._headers = headers
        self._given = given
        self._started = time.perf_counter()

    async def run(self, receive: Receive, send: Send) -> None:
        """Answer, or hand on what does not fit."""
        try:
            who = await self._admitted()
            body = await _read(receive)
            try:
                if NUL in body:
                    raise ValueError
                asked = _BODY.validate_json(body)
            except (ValueError, ValidationError, IntentError):
                await self._path._app(self._scope, _again(body, receive), send)
                return
            written = await self._answered(asked, who)
        except CallerGone:
            self._tell(NOBODY_HEARD)
        except Exception as error:  # The edge of HTTP: whatever it is becomes a problem document.
            await self._refuse(error, receive, send)
        else:
            await self._send(written, send)

    async def _admitted(self) -> access.Access | None:
        """Who calls; None while no key was ever made: everybody on the machine may ask everything."""
        if not self._given.keys.guarded:
            return None
        request = Request(self._scope)
        await self._path._needs(request)
        return await access.access(request)

    async def _answered(self, body: _Plain, who: access.Access | None) -> bytes:
        if who is not None:
            await require_visible(self._given, who, body.domain)
        asked = Asked(body.text, body.domain, body.request_id, body.user_id, body.topk, body.train_allowed)
        gone: Callable[[], bool] | None = (self._scope.get("extensions") or {}).get(GONE)
        [logged] = await self._given.classifier.classify([asked], gone=gone)
        if isinstance(logged, BaseException):
            raise logged
        return _ANSWER.to_json(answer(logged, body.domain, body.topk))

    async def _send(self, written: bytes, send: Send) -> None:
        headers = [
            (b"content-length", b"%d" % len(written)),
            (b"content-type", b"application/json"),
            (b"x-request-id", self._request_id().encode("ascii")),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": written})
        self._tell(200)

    def _request_id(self) -> str:
        traceparent, given = self._headers.get(b"traceparent"), self._headers.get(tracing.REQUEST_HEADER)
        if traceparent is None and given is None:
            # Nothing that ran for this request has logged: its ids need not be known to the log.
            return f"{random.getrandbits(128):032x}"
        return tracing.bind(traceparent, given)

    async def _refuse(self, error: Exception, receive: Receive, send: Send) -> None:
        request_id = tracing.bind(self._headers.get(b"traceparent"), self._headers.get(tracing.REQUEST_HEADER))
        response = rendered(error)
        response.headers["x-request-id"] = request_id
        await response(self._scope, receive, send)
        self._tell(response.status_code)

    def _tell(self, status: int) -> None:
        self._path._observed.tell("POST", PATH, status, time.perf_counter() - self._started)


async def _read(receive: Receive) -> bytes:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        whole: bytes = message.get("body", b"")
        return whole
    parts = []
    while message["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()
    raise CallerGone("the caller hung up before the body was whole")


def _again(body: bytes, receive: Receive) -> Receive:
    """A receive that gives this body once more, and then what comes."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return first.pop() if first else await receive()

    return replayed


def install(app: FastAPI, *, metrics: Metrics, access_level: int, own_machine: OwnMachineOnly) -> None:
    """Put the hot path before all layers of this application."""
    build: Callable[[], ASGIApp] = app.build_middleware_stack
    [taken] = [access.needed(r) for r in router.routes if isinstance(r, APIRoute) and r.path == PATH]
    assert taken is not None

    def with_hot_path() -> ASGIApp:
        stack = build()
        observed = Observed(stack, metrics, access_level)
        return HotPath(stack, observed=observed, own_machine=own_machine, needs=taken)

    app.build_middleware_stack = with_hot_path  # type: ignore[method-assign]
