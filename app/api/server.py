"""The server of one process: its deadlines, and the order in which it stops."""

import asyncio
import gc
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import uvicorn
from fastapi import FastAPI

from app.api.accepting import Acceptor, Shares
from app.api.connections import Connection, Limits, connection_class
from app.settings import Settings

LOOK_SECONDS: Final = 0.5
# A connection on which nothing was asked for so long since the end was announced is not in use.
LAST_REQUEST_SECONDS: Final = 0.5
# A thread that has waited for a disk or a socket is not run again before another one pauses or this time is over. With
# Python's 5 ms, whoever writes the log while others compute holds the database for most of its time without working.
SWITCH_SECONDS: Final = 0.002
# Objects that may come to be before the youngest ones are looked through, and how often the older ones are.
COLLECT_AFTER: Final = (20_000, 20, 50)


class Server(uvicorn.Server):
    """Stops in order: not ready, nothing new, what is in flight, the log."""

    def __init__(
        self,
        app: FastAPI,
        settings: Settings,
        *,
        on_started: Callable[[], None] = lambda: None,
        shares: Shares | None = None,
    ) -> None:
        """`shares`: of a worker, what each of them holds of the connections to their common socket."""
        self.limits = Limits(settings.head_seconds, settings.body_seconds, settings.max_connections)
        self._app = app
        self._drain_seconds = settings.drain_seconds
        self._on_started = on_started
        self._shares = shares
        self._acceptor: Acceptor | None = None
        self._looked_at = 0.0
        super().__init__(
            uvicorn.Config(
                app,
                http=connection_class(self.limits),
                ws="none",
                # Our handler writes what the server logs, too.
                log_config=None,
                log_level="warning",
                access_log=False,
                timeout_keep_alive=settings.idle_seconds,  # type: ignore[arg-type]  # seconds, whole or not
                timeout_graceful_shutdown=settings.grace_seconds,  # type: ignore[arg-type]
                backlog=2048,
                # Nothing here needs the caller's address, and none must become what a header says.
                proxy_headers=False,
                server_header=False,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        _make_threads_take_turns()
        if self._shares is None or sockets is None:
            await super().startup(sockets)
        else:
            await super().startup([])
            [listener] = sockets
            self._acceptor = Acceptor(
                listener, self._protocol, shares=self._shares, held=lambda: len(self.server_state.connections)
            )
            self.servers = [self._acceptor]  # type: ignore[list-item]  # it can be closed, and no more is asked of it
        if self.started:
            self._on_started()

    def _protocol(self) -> asyncio.Protocol:
        made: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = made(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    async def on_tick(self, counter: int) -> bool:
        """Besides what the server does ten times a second: close what is too slow."""
        if self._acceptor is not None:
            self._acceptor.tell()
        now = time.monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            at = asyncio.get_running_loop().time()
            for connection in self._connections():
                connection.look_at_deadline(at)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let no request end without its answer.

        A connection that is kept may carry a request that is under way at this moment: so each is left open for its
        next answer, which says that it is the last one, before those that stay silent are closed.
        """
        services: Any = getattr(self._app.state, "services", None)
        if services is not None:
            services.draining = True
        self.limits.closing = True
        for connection in self._connections():
            connection.make_last()
        await self._tick_for(self._drain_seconds, lambda: False)
        for server in self.servers:
            server.close()
        await self._tick_for(LAST_REQUEST_SECONDS, lambda: not self.server_state.connections)
        await super().shutdown(sockets)

    async def _tick_for(self, seconds: float, over: Callable[[], bool]) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not over() and not self.force_exit:
            await asyncio.sleep(min(0.02, seconds))
            await self.on_tick(1)

    def _connections(self) -> list[Connection]:
        return [found for found in self.server_state.connections if isinstance(found, Connection)]


def _make_threads_take_turns() -> None:
    """Let no thread of this process stop the others for long: neither by computing, nor by collecting garbage."""
    sys.setswitchinterval(SWITCH_SECONDS)
    # What is there by now stays: looked through again and again, it would stop every answer for a tenth of a second.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
