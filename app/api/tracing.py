"""The ids of a request: taken from its headers where they are well formed, made otherwise, and known while it runs."""

import random
import re
from typing import Final

import structlog

from app.intent.masking import mask

TRACE: Final = "trace_id"
REQUEST: Final = "request_id"
REQUEST_HEADER: Final = b"x-request-id"

# W3C Trace Context, version 00 and what later versions keep of it.
_TRACEPARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")
# Good in a header, in a log line and in a shell.
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}")


def current_trace_id() -> str | None:
    """The trace that the request belongs to which runs here, or None outside of requests."""
    found = structlog.contextvars.get_contextvars().get(TRACE)
    return found if isinstance(found, str) else None


def bind(traceparent: bytes | None, request_id: bytes | None) -> str:
    """Note the ids of a request for everything that it logs, and return its request id."""
    # Unlike others' but no secret: asking the kernel for each would let other threads take this one's turn.
    trace_id = _trace_of(traceparent) or f"{random.getrandbits(128):032x}"
    known = request_id is not None and _REQUEST_ID.fullmatch(request_id)
    said = request_id.decode("ascii") if request_id is not None and known else trace_id
    structlog.contextvars.bind_contextvars(**{TRACE: trace_id, REQUEST: said})
    return said


def _trace_of(traceparent: bytes | None) -> str | None:
    found = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent)
    if found is None or found[1] == b"ff" or not int(found[2], 16) or not int(found[3], 16):
        return None
    trace_id = found[2].decode("ascii")
    # 32 digits may be anything: one that reads like a person's number is not taken on.
    return trace_id if mask(trace_id) == trace_id else None
