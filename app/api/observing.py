"""Watch every request: give it its ids, count it by route and status, and write its line of access."""

import logging
import time
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import tracing
from app.api.metrics import Metrics

logger = logging.getLogger("app.access")

# A method comes from outside: any other is one of these to the metrics.
_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
NO_ROUTE: Final = "none"
# Nobody hears of an answer that never began: the connection was closed before.
NOBODY_HEARD: Final = 499


class Observed:
    """The outermost layer. What it tells of a request is the template of its route: never a path, never a query."""

    def __init__(self, app: ASGIApp, metrics: Metrics, access_level: int) -> None:
        self._app = app
        self._requests = metrics.requests
        self._access_level = access_level

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = tracing.bind(headers.get(b"traceparent"), headers.get(tracing.REQUEST_HEADER))
        started = time.perf_counter()
        status = NOBODY_HEARD

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode("ascii"))]}
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "OTHER"
            self.tell(method, route_of(scope), status, time.perf_counter() - started)

    def tell(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that is over, and write its line where such lines are wanted."""
        self._requests.count(method, route, status, seconds)
        if logger.isEnabledFor(self._access_level):
            fields = {"method": method, "route": route, "status": status, "duration_ms": round(seconds * 1000, 3)}
            logger.log(self._access_level, "request", extra={"fields": fields})


def route_of(scope: Any) -> str:
    """The template of the route that answered: the path itself is somebody's, and there is no end of them."""
    route = scope.get("route")
    path = getattr(route, "path_format", None) or getattr(route, "path", None)
    return path if isinstance(path, str) else NO_ROUTE
