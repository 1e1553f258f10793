"""One connection: how long its request may take to arrive, how large its head may be, and how it ends in a shutdown.

The server itself waits for ever for a head or a body, so that whoever sends a byte now and then holds a connection.
Deadlines are kept as numbers and looked at once in a while: a timer for each request would cost more than the look.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from app.api.hot_path import GONE
from app.api.problems import respond
from app.errors import HeadTooLarge, IntentError, RequestTimeout, TooManyConnections

MOST_HEAD_BYTES: Final = 64 * 1024
HEAD_END: Final = b"\r\n\r\n"


@dataclass(slots=True)
class Limits:
    """What connections are held to; shared by all of a process, and changed by its shutdown."""

    head_seconds: float
    body_seconds: float
    most: int
    closing: bool = False
    """Whether each answer is its connection's last one."""


class WholeAnswers:
    """A transport that sends the head of an answer together with what follows it: one packet in place of two.

    The server writes a head and the first of its body one after the other, and each would be a call of the kernel.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Send, or keep for the next call what is the head of an answer and nothing else."""
        if not self._head and data[:9] == b"HTTP/1.1 " and data[-4:] == HEAD_END and data[9:10] != b"1":
            self._head = data
            return
        head, self._head = self._head, b""
        self._transport.write(head + data)

    def flush(self) -> None:
        """Send what is kept: nothing follows the head of an answer to HEAD."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        """Send what is kept, and close."""
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Connection(HttpToolsProtocol):
    """The server's own protocol with deadlines."""

    limits: Limits
    """Set on the class that `connection_class` makes: the server builds connections by itself."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.deadline: float | None = None
        self._in_head = True
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head; beyond so many connections say so and close."""
        self._whole = WholeAnswers(transport)
        super().connection_made(self._whole)  # type: ignore[arg-type]
        self.deadline = self.loop.time() + self.limits.head_seconds
        if len(self.connections) > self.limits.most:
            self.refuse(TooManyConnections(f"more than {self.limits.most} connections are open"))

    def data_received(self, data: bytes) -> None:
        """Parse, and bound what a head may be."""
        if self.transport.is_closing():
            return
        if self.deadline is None and (self.cycle is None or self.cycle.response_complete):
            self.deadline = self.loop.time() + self.limits.head_seconds
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self.refuse(HeadTooLarge(f"the head of a request may have {MOST_HEAD_BYTES} bytes"))

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """The head is there; its body has a time of its own."""
        self._in_head = False
        self.deadline = self.loop.time() + self.limits.body_seconds
        self.scope["extensions"] = {GONE: self.transport.is_closing}  # type: ignore[dict-item]
        super().on_headers_complete()
        if self.limits.closing:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """All is there: from now on the caller waits for us."""
        self.deadline = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is over, with a body or without."""
        self._whole.flush()
        super().on_response_complete()

    def look_at_deadline(self, now: float) -> None:
        """Give up on a request that is too slow to arrive."""
        if self.deadline is None or now < self.deadline:
            return
        if self._in_head and not self._head_bytes and not self.server_waits_for_body:
            # Nothing was asked: there is nothing to answer.
            self.transport.close()
        else:
            self.refuse(RequestTimeout("the request took too long to arrive"))

    @property
    def server_waits_for_body(self) -> bool:
        """Whether a head is whole and its body is not."""
        return not self._in_head

    def refuse(self, error: IntentError) -> None:
        """Answer with a problem, where no answer has begun, and close; the application hears that the caller left."""
        if self.transport.is_closing():
            return
        begun = self.cycle is not None and not self.cycle.response_complete and self.cycle.response_started
        if not begun:
            response = respond(error)
            head = [STATUS_LINE[response.status_code]]
            for name, value in [*response.raw_headers, (b"connection", b"close")]:
                head.extend([name, b": ", value, b"\r\n"])
            self.transport.write(b"".join([*head, b"\r\n", bytes(response.body)]))
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def make_last(self) -> None:
        """Let the answer that is under way be the last one of this connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False


def connection_class(limits: Limits) -> type[Connection]:
    """The protocol with these limits."""
    return type("LimitedConnection", (Connection,), {"limits": limits})
